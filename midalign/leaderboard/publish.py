"""Publish a built board: the steps that all targets share, and publication into a folder.

`publish_branch` has the branch of a git repository, `publish_hub` the Hugging Face hub.
"""

import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from midalign.errors import MidalignError
from midalign.leaderboard.load import record_paths
from midalign.leaderboard.site import (
    FILES_PAGE,
    REPLACED,
    SCORES,
    SUMS,
    VERSIONS,
    check_version,
    versions_in,
    write_site,
)
from midalign.leaderboard.tables import MARK

SITE_FILES = (FILES_PAGE, SUMS, SCORES, "leaderboard.json")
"""Files of every published site. A target without them holds something else."""


@dataclass(frozen=True)
class UploadFolder:
    """Files for one address."""

    address: str
    folder: Path
    sizes: dict[str, int]
    """Path below the folder -> bytes."""
    removed: list[str]
    """Files of the earlier publication that the new one lacks."""


@dataclass(frozen=True)
class Publication:
    """The result of a publication, or its plan in a dry run."""

    uploads: list[UploadFolder]
    message: str
    """Commit message."""
    versions: list[str]
    """Frozen versions that stay."""
    addresses: list[str]
    """Addresses of the board. Empty in a dry run, and if nothing has changed."""


class PublishTarget(Protocol):
    """A place that holds a published board."""

    @property
    def address(self) -> str:
        """Name of the target in messages."""

    def list_files(self, scratch: Path) -> list[str]:
        """Return the paths of the published files, none if the place does not exist yet.

        Raises MidalignError for a place that cannot be read.
        """

    def plan_uploads(self, site: Path, published: list[str]) -> list[UploadFolder]:
        """Return the uploads of a site. May add files to it that the target needs."""

    def upload(self, uploads: Sequence[UploadFolder], message: str) -> list[str]:
        """Publish, and return the addresses of the changed places.

        Raises MidalignError if the place has changed since `list_files`. The place then stays as it was.
        """


def publish_board(
    board: Path, results: Path, target: PublishTarget, version: str | None = None, *, dry_run: bool = True
) -> Publication:
    """Publish a built board with its records.

    Args:
        board: folder that `build_board` wrote.
        results: the records that it was built from.
        target: where the board goes.
        version: also freeze this state under a name such as `2026.12`.
        dry_run: write only into a temporary folder.

    Raises MidalignError for a target that holds something else, for a version that exists already, and as
    `write_site` does.
    """
    if version is not None:
        check_version(version)
    with tempfile.TemporaryDirectory(prefix="midalign-publish-") as name:
        scratch = Path(name)
        published = target.list_files(scratch)
        versions = versions_in(published)
        if version in versions:
            month = ".".join(str(version).split(".")[:2])
            names = (f"{month}.{number}" for number in itertools.count(1))
            free = next(name for name in names if name not in versions)
            raise MidalignError(
                f"Version {version} is already published: {target.address}. Frozen versions do not change. "
                f"Choose another one, such as --freeze {free}"
            )
        site = scratch / "site"
        site.mkdir()
        write_site(board, results, site, versions, version)
        uploads = target.plan_uploads(site, published)
        count = len(record_paths(results))
        message = f"Publish the leaderboard: {count} record{'' if count == 1 else 's'}"
        message += f", version {version}" if version else ""
        addresses = [] if dry_run else target.upload(uploads, message)
    return Publication(uploads, message, versions, addresses)


def plan_folder(address: str, folder: Path, published: Sequence[str]) -> UploadFolder:
    """Return an upload with the sizes of its files, and the published files that it removes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    removed = sorted(path for path in published if path.split("/")[0] in REPLACED and path not in sizes)
    return UploadFolder(address, folder, sizes, removed)


def check_is_board(
    address: str, paths: Sequence[str], marks: Sequence[str], harmless: Sequence[str] = ()
) -> None:
    """Raise MidalignError if a place holds files, but not all files `marks` of a published board."""
    foreign = sorted(set(paths) - set(harmless))
    missing = next((mark for mark in marks if mark not in paths), None)
    if foreign and missing:
        raise MidalignError(
            f"{address} is not a published board: found {foreign[0]}, expected {missing}. Nothing was "
            f"changed. Choose another target"
        )


def changed_meanwhile(address: str) -> str:
    """Return the error message for a target that changed between reading and writing."""
    return (
        f"{address} has changed since it was read, probably by another publication. Nothing was "
        f"overwritten. Rerun the same command"
    )


@dataclass
class FolderTarget:
    """A folder that any web server can serve."""

    path: Path
    _published: list[str] = field(default_factory=list, init=False)
    """Paths of its files when it was read."""

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.path)

    def list_files(self, scratch: Path) -> list[str]:
        """Return the paths of the published files, none for a folder that does not exist yet."""
        if self.path.exists() and not self.path.is_dir():
            raise MidalignError(f"{self.path} is a file, expected a folder. Choose another target")
        # Versions behind a link would be neither seen nor protected.
        for folder in (self.path / VERSIONS, *(self.path / VERSIONS).glob("*")):
            if folder.is_symlink():
                raise MidalignError(
                    f"{folder} is a symbolic link, expected a folder. Nothing was changed. Replace the link "
                    f"by the folder that it leads to"
                )
        self._published = self._list()
        check_is_board(self.address, self._published, SITE_FILES)
        page = self.path / FILES_PAGE
        if self._published and MARK not in page.read_text("utf-8", errors="replace"):
            raise MidalignError(
                f"{self.path} is not a published board: midalign did not write its {FILES_PAGE}. Nothing "
                f"was changed. Choose another target"
            )
        return self._published

    def _list(self) -> list[str]:
        paths = (path for path in self.path.rglob("*") if path.is_symlink() or not path.is_dir())
        return sorted(path.relative_to(self.path).as_posix() for path in paths)

    def plan_uploads(self, site: Path, published: list[str]) -> list[UploadFolder]:
        """Return the site."""
        return [plan_folder(self.address, site, published)]

    def upload(self, uploads: Sequence[UploadFolder], message: str) -> list[str]:
        """Write the site next to the folder, then rename it. Frozen versions and foreign files are copied.

        Raises MidalignError if another publication has changed the folder.
        """
        target = self.path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        unique = uuid.uuid4().hex[:8]
        partial, old = (target.with_name(f".{target.name}.{unique}{end}") for end in ("", ".old"))
        try:
            if target.is_dir():
                # Files that the site replaces are not copied either: writing would follow a link.
                ignored = {str(target / name) for name in (*REPLACED, *uploads[0].sizes)}
                shutil.copytree(
                    target,
                    partial,
                    symlinks=True,
                    ignore=lambda folder, names: {n for n in names if os.path.join(folder, n) in ignored},
                )
            shutil.copytree(uploads[0].folder, partial, dirs_exist_ok=True)
            if self._list() != self._published:
                raise MidalignError(changed_meanwhile(self.address))
            if target.is_dir():
                shutil.copystat(target, partial)
                target.rename(old)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if old.is_dir() and not target.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return [str(self.path / "index.html")]
