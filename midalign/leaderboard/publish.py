"""Publish a built board: what all targets share, and the folder as a target.

`publish_branch` has the branch of a git repository, `publish_hub` the Hugging Face hub.
"""

import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from midalign.errors import MidalignError
from midalign.leaderboard.load import record_paths
from midalign.leaderboard.site import FILES_PAGE, REPLACED, check_version, versions_in, write_site


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
        """Name of the place in messages."""

    @property
    def front_matter(self) -> str:
        """Text before the board's README.md."""

    def list_files(self, scratch: Path) -> list[str]:
        """Return the paths of the published files, none if the place does not exist yet.

        Raises MidalignError for a place that cannot be read.
        """

    def plan_uploads(self, site: Path, published: list[str]) -> list[tuple[str, Path, list[str]]]:
        """Return address, new files and published paths of each upload."""

    def upload(self, uploads: Sequence[UploadFolder], message: str) -> list[str]:
        """Publish, and return the addresses of what has changed.

        Raises MidalignError, and leaves the place as it was, if it has changed since `list_files`.
        """


def publish_board(
    board: Path, results: Path, target: PublishTarget, version: str | None = None, *, dry_run: bool = True
) -> Publication:
    """Publish a built board with its records.

    Args:
        board: folder that `build_board` wrote.
        results: the records that it was built from.
        target: where to.
        version: also freeze this state under a name such as `2026.12`.
        dry_run: write nothing outside of a temporary folder.

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
            year, month, *number = str(version).split(".")
            raise MidalignError(
                f"Version {version} is already published: {target.address}. Frozen versions do not change. "
                f"Choose another one, such as --freeze {year}.{month}.{int(number[0]) + 1 if number else 1}"
            )
        site = scratch / "site"
        site.mkdir()
        write_site(board, results, site, versions, version, target.front_matter)
        uploads = [_upload_folder(*upload) for upload in target.plan_uploads(site, published)]
        count = len(record_paths(results))
        message = f"Publish the leaderboard: {count} record{'' if count == 1 else 's'}"
        message += f", version {version}" if version else ""
        addresses = [] if dry_run else target.upload(uploads, message)
    return Publication(uploads, message, versions, addresses)


def _upload_folder(address: str, folder: Path, published: Sequence[str]) -> UploadFolder:
    """Return an upload with the sizes of its files, and the published files that it removes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
    removed = sorted(path for path in published if path.split("/")[0] in REPLACED and path not in sizes)
    return UploadFolder(address, folder, sizes, removed)


def check_ours(address: str, paths: Sequence[str], mark: str, harmless: Sequence[str] = ()) -> None:
    """Raise MidalignError if a place holds files but no published board, which has the file `mark`."""
    foreign = sorted(set(paths) - set(harmless))
    if foreign and mark not in paths:
        raise MidalignError(
            f"{address} holds something else ({foreign[0]}{', ...' if len(foreign) > 1 else ''}), so it is "
            f"left as it is. Choose another target"
        )


@dataclass(frozen=True)
class FolderTarget:
    """A folder that any web server can serve."""

    path: Path
    front_matter: str = ""

    @property
    def address(self) -> str:
        """The folder's path."""
        return str(self.path)

    def list_files(self, scratch: Path) -> list[str]:
        """Return the paths of the published files, none for a folder that does not exist yet."""
        if not self.path.exists():
            return []
        if not self.path.is_dir():
            raise MidalignError(f"{self.path} is a file, expected a folder. Choose another target")
        paths = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if not path.is_dir()]
        check_ours(self.address, paths, FILES_PAGE)
        return paths

    def plan_uploads(self, site: Path, published: list[str]) -> list[tuple[str, Path, list[str]]]:
        """Return the site."""
        return [(self.address, site, published)]

    def upload(self, uploads: Sequence[UploadFolder], message: str) -> list[str]:
        """Write the site next to the folder, then rename it. Frozen versions and foreign files are copied."""
        target = self.path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        unique = uuid.uuid4().hex[:8]
        partial, old = (target.with_name(f".{target.name}.{unique}{end}") for end in ("", ".old"))
        try:
            if target.is_dir():
                ignored = [str(target / name) for name in REPLACED]
                shutil.copytree(
                    target,
                    partial,
                    symlinks=True,
                    ignore=lambda folder, names: {n for n in names if os.path.join(folder, n) in ignored},
                )
            shutil.copytree(uploads[0].folder, partial, dirs_exist_ok=True)
            if target.is_dir():
                target.rename(old)
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if old.is_dir() and not target.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return [str(self.path / "index.html")]
