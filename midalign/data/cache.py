"""Download, verify and cache data sets."""

import errno
import hashlib
import http.client
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import filelock

from midalign.errors import DataError
from midalign.files import write_atomically

log = logging.getLogger(__name__)

ATTEMPTS = 5
BLOCK = 1 << 18
PROGRESS = 5.0
"""Seconds between two progress lines of a download."""


def cache_folder() -> Path:
    """Return $MIDALIGN_CACHE, or `midalign` in the user's cache folder."""
    chosen = os.environ.get("MIDALIGN_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "midalign"


def is_offline() -> bool:
    """Return whether one of Hugging Face's offline switches is set. They hold for midalign too."""
    switches = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    return any(switch.upper() in ("1", "TRUE", "YES", "ON") for switch in switches)


def write_to_cache(path: Path, content: bytes) -> None:
    """Write a file of the cache atomically, creating its folder.

    Raises OSError if the disk is full, otherwise DataError.
    """
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, sync=False)  # thousands of files, downloaded again if lost


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the machine-wide lock for a download to `path`. Logs a warning if another process has it."""
    held = filelock.FileLock(f"{path}.lock")
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.acquire(timeout=1)
        except filelock.Timeout:
            log.warning("Waiting for another process that downloads %s", path.name)
            held.acquire()
    try:
        yield
    finally:
        held.release()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the file's name to errors of writing it. All but a full disk become a DataError with the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise DataError(
            f"{path} cannot be written ({error.strerror}). Choose another folder for the cache: "
            f"export MIDALIGN_CACHE=FOLDER"
        ) from error


@dataclass(frozen=True)
class FileSet:
    """Files with known line counts and sha256.

    `<name>_digests.tsv` next to this module lists them. An unknown sha256 is empty there. `put` accepts the
    published files only. `keep` accepts any copy, which is then verified against its own digest.
    """

    name: str

    @cached_property
    def digests(self) -> dict[str, tuple[int, str]]:
        """(lines, sha256) by file name."""
        _, *rows = (files("midalign") / "data" / f"{self.name}_digests.tsv").read_text("utf-8").splitlines()
        table = (row.split("\t") for row in rows)
        return {file: (int(lines), sha256) for file, lines, sha256 in table}

    def digest(self, names: Iterable[str]) -> str:
        """Return the sha256 of the digests of some files."""
        return hashlib.sha256("".join(self.expected(file)[1] for file in names).encode()).hexdigest()

    def expected(self, file: str) -> tuple[int, str]:
        """Return the (lines, sha256) that `read` requires: of the added copy, else of the published file."""
        try:
            lines, sha256 = self._note(file).read_text("utf-8").split()
        except FileNotFoundError:
            return self.digests[file]
        return int(lines), sha256

    def path(self, file: str) -> Path:
        """Return where a file of the set is stored."""
        return cache_folder() / self.name / file

    def put(self, file: str, content: bytes, source: str) -> None:
        """Verify and store a file. Raises DataError, naming `source`, if it is not the published one."""
        self._verify(file, content, self.digests[file], source, "Get the file from its publisher again")
        self._note(file).unlink(missing_ok=True)
        write_to_cache(self.path(file), content)

    def published(self, file: str, content: bytes) -> bool:
        """Return whether the content is that of the published file."""
        return file in self.digests and self.digests[file][1] == hashlib.sha256(content).hexdigest()

    def keep(self, file: str, content: bytes, source: str) -> None:
        """Store a copy that need not be the published one.

        Any other copy causes a warning and is verified against its own digest from then on. Records get that
        digest, so that scores on different copies can be distinguished.
        """
        if self.published(file, content):
            return self.put(file, content, source)
        known = self.digests.get(file)
        lines, sha256 = content.count(b"\n"), hashlib.sha256(content).hexdigest()
        if known and known[1]:
            log.warning(
                "%s: %s has %d lines, sha256 %s...; the published one has %d, sha256 %s.... The copy is "
                "kept. Scores on it are not comparable with published ones",
                *(source, file, lines, sha256[:16], known[0], known[1][:16]),
            )
        write_to_cache(self._note(file), f"{lines} {sha256}\n".encode())
        write_to_cache(self.path(file), content)

    def read(self, file: str) -> str:
        """Return the text of a stored file. Raises DataError if it was altered or truncated."""
        path = self.path(file)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})") from error
        remedy = f"Remove it (rm {path}) and add the data set again: {self.remedy}"
        self._verify(file, content, self.expected(file), str(path), remedy)
        return content.decode("utf-8")

    def fetch(self, url: str, is_complete: Callable[[], bool], store: Callable[[Path], object]) -> None:
        """Download `url` and pass the file to `store`, unless `is_complete()`.

        One process downloads, the others wait. The download is removed once `store` has accepted or rejected
        it. After a full disk or Ctrl-C it is kept for the next attempt.
        """
        archive = cache_folder() / "downloads" / url.rpartition("/")[2]
        with lock(archive):
            if is_complete():
                return
            try:
                if not archive.is_file():
                    download(url, archive)
            except DataError as error:
                raise DataError(f"{self.name}: {error}. From a local copy: {self.remedy}") from error
            try:
                store(archive)
            except DataError as error:
                archive.unlink()
                raise DataError(f"{self.name}: the download from {url} was rejected: {error}") from error
            archive.unlink()

    @property
    def remedy(self) -> str:
        """The command that adds a local copy."""
        return f"midalign data add {self.name} PATH"

    def _note(self, file: str) -> Path:
        """Return the file with the lines and sha256 of a copy that differs from the published file."""
        path = self.path(file)
        return path.with_name(f"{path.name}.kept")

    def _verify(self, file: str, content: bytes, expected: tuple[int, str], source: str, remedy: str) -> None:
        lines, sha256 = expected
        actual = hashlib.sha256(content).hexdigest()
        if actual != sha256:
            count = content.count(b"\n")
            raise DataError(
                f"{source}: {file} has {count:,} lines, sha256 {actual[:16]}...; "
                f"expected {lines:,} lines, sha256 {sha256[:16]}.... {remedy}"
            )


def download(url: str, path: Path) -> None:
    """Download `url` to `path`, resuming an earlier attempt.

    Call it under `lock(path)`. Raises DataError if downloads are switched off, or if the file cannot be
    downloaded completely.
    """
    if is_offline():
        raise DataError(
            f"{path.name} is missing, and HF_HUB_OFFLINE or HF_DATASETS_OFFLINE forbids downloading it"
        )
    # Warnings are shown even if logging is not set up, so that users see why the program is waiting.
    log.warning("Downloading %s", url)
    partial = path.with_name(f"{path.name}.part")
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            log.warning("%s: %s. Trying again", url, problem)
            time.sleep(min(2**attempt / 4, 5))
        try:
            _continue(url, partial)
        except urllib.error.HTTPError as error:
            problem = f"the server answers {error.code} {error.reason}"
            if error.code == 416:  # range not satisfiable: the file on the server has changed
                partial.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):  # time-out, too many requests
                break
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ssl.SSLError,
            ConnectionError,
            TimeoutError,
        ) as error:
            problem = str(error.reason if isinstance(error, urllib.error.URLError) else error)
        else:
            os.replace(partial, path)
            return
    raise DataError(
        f"{url} could not be downloaded: {problem}. The received part is kept. "
        "Rerun the same command to resume"
    )


def _continue(url: str, partial: Path) -> None:
    """Append the missing bytes to `partial`. Raises IncompleteRead if the connection ends early."""
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{start}":
            return  # an earlier process ended after the last byte
        raise
    with response:
        if response.status != 206:  # the server ignores ranges and sends the whole file
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with _named(partial):
            file = partial.open("ab" if start else "wb")
        logged = time.monotonic()
        with file:
            while block := response.read(BLOCK):
                with _named(partial):
                    file.write(block)
                    file.flush()  # so that a full disk fails here and not at close
                start += len(block)
                if time.monotonic() - logged > PROGRESS:
                    logged = time.monotonic()
                    of = f" of {total / 1e6:.1f}" if total else ""
                    log.warning("%s: %.1f%s MB", partial.stem, start / 1e6, of)
    if total is not None and start < total:
        raise http.client.IncompleteRead(b"", total - start)
