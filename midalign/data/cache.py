"""The disk: where data sets live, how they get there whole, and how one is told that they did not."""

import hashlib
import http.client
import logging
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import filelock

from midalign.errors import DataError

log = logging.getLogger(__name__)

Report = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes so far, and the bytes in all where the server says."""

ATTEMPTS = 5
BLOCK = 1 << 20


def folder() -> Path:
    """$MIDALIGN_CACHE, or `midalign` in the user's cache folder."""
    chosen = os.environ.get("MIDALIGN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "midalign"


def offline() -> bool:
    """Whether the user has asked Hugging Face's tools to stay off the network; we obey the same switches."""
    switches = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    return any(switch.upper() in ("1", "TRUE", "YES", "ON") for switch in switches)


def write(path: Path, content: bytes) -> None:
    """Write beside, then rename: whoever reads sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def lock(path: Path) -> filelock.BaseFileLock:
    """A lock that processes of one machine share, for the duration of a download."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(f"{path}.lock")


@dataclass(frozen=True)
class FileSet:
    """Files whose line counts and sha256 the project carries, in `<name>_digests.tsv` beside this module."""

    name: str

    @cached_property
    def digests(self) -> dict[str, tuple[int, str]]:
        """(lines, sha256) by file name."""
        _, *rows = (files("midalign") / "data" / f"{self.name}_digests.tsv").read_text("utf-8").splitlines()
        table = (row.split("\t") for row in rows)
        return {file: (int(lines), sha256) for file, lines, sha256 in table}

    def path(self, file: str) -> Path:
        """Where a file of the set lies once it is there."""
        return folder() / self.name / file

    def put(self, file: str, content: bytes, source: str) -> None:
        """Verify and store a file; raises DataError that names `source` where it is not the published one."""
        self._verify(file, content, source, "Get the file from its publisher again")
        write(self.path(file), content)

    def read(self, file: str) -> str:
        """The text of a stored file, verified; raises DataError where it was altered or cut."""
        path = self.path(file)
        content = path.read_bytes()
        self._verify(
            file, content, str(path), f"Remove it (rm {path}) and add the data set again: {self.remedy}"
        )
        return content.decode("utf-8")

    @property
    def remedy(self) -> str:
        """What to type where the set is missing."""
        return f"midalign data add {self.name} PATH"

    def _verify(self, file: str, content: bytes, source: str, remedy: str) -> None:
        lines, sha256 = self.digests[file]
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            count = content.count(b"\n")
            raise DataError(
                f"{source}: {file} has {count:,} lines, sha256 {found[:16]}...; "
                f"expected {lines:,} lines, sha256 {sha256[:16]}.... {remedy}"
            )


def download(url: str, path: Path, report: Report | None = None) -> None:
    """Fetch `url` to `path`, going on from what an earlier attempt has left beside it.

    Raises DataError when the network is switched off, or when the whole file does not arrive.
    """
    if offline():
        raise DataError(
            f"{path.name} is not here and HF_HUB_OFFLINE or HF_DATASETS_OFFLINE forbids its download"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            log.warning("%s: %s; trying again", url, problem)
            time.sleep(min(2**attempt / 4, 5))
        try:
            _continue(url, partial, report)
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # the part is no beginning of what the server has now
                partial.unlink(missing_ok=True)
            elif error.code < 500:
                break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = str(error)
        else:
            os.replace(partial, path)
            return
    raise DataError(
        f"{url} could not be fetched: {problem}. What arrived is kept, the same command goes on from there"
    )


def _continue(url: str, partial: Path, report: Report | None) -> None:
    """Append to `partial` what it lacks; raises IncompleteRead where the connection ends early."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=60) as response:
        if response.status != 206:  # the whole file comes, whatever was asked for
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with partial.open("ab" if start else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                start += len(block)
                if report:
                    report(partial.stem, start, total)
    if total is not None and start < total:
        raise http.client.IncompleteRead(b"", total - start)
