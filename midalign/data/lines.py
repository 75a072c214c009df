"""Data sets of plain text files, in which line n of one file often translates line n of another."""

from dataclasses import dataclass
from pathlib import Path

from midalign.data import cache
from midalign.data.archive import members
from midalign.errors import DataError


@dataclass(frozen=True)
class LineFiles:
    """Files with known digests that each have a URL."""

    files: cache.FileSet
    url: str
    """URL of a file, with `{file}` for its name."""

    def read(self, file: str) -> list[str]:
        """Return the lines of a file. Downloads it at first use."""
        if not self.files.path(file).is_file():
            self.fetch(file)
        return self.files.read(file).removesuffix("\n").split("\n")

    def fetch(self, file: str) -> None:
        """Download and store one file."""
        url = self.url.format(file=file)
        self.files.fetch(
            url,
            self.files.path(file).is_file,
            lambda download: self.files.put(file, download.read_bytes(), str(download)),
        )

    def add(self, path: Path) -> tuple[list[str], list[str]]:
        """Store the files found in a file, folder or archive. Returns (added, missing) file names."""
        added = []
        for name, content in members(path, lambda name: name in self.files.digests):
            self.files.put(name, content, str(path))
            added.append(name)
        if not added:
            example = next(iter(self.files.digests))
            raise DataError(f"{path} holds no file of {self.files.name}; expected files such as {example}")
        return added, [name for name in self.files.digests if not self.files.path(name).is_file()]


def line_pairs(source: LineFiles, foreign: str, english: str) -> list[tuple[str, str]]:
    """Return (foreign, English) line by line. Raises DataError if the files differ in length."""
    left, right = source.read(foreign), source.read(english)
    if len(left) != len(right):
        raise DataError(f"{foreign} has {len(left)} lines and {english} {len(right)}; expected equal numbers")
    return [(a.strip(), b.strip()) for a, b in zip(left, right, strict=True)]
