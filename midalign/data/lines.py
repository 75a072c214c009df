"""Data sets of plain text files in which line n of one translates line n of the other."""

from dataclasses import dataclass
from pathlib import Path

from midalign.data import cache
from midalign.data.archive import members
from midalign.errors import DataError


@dataclass(frozen=True)
class Source:
    """Files with known digests, each at a URL of its own."""

    files: cache.FileSet
    url: str

    def read(self, file: str, report: cache.Report | None = None) -> list[str]:
        """The lines of a file, downloaded at first use."""
        if not self.files.path(file).is_file():
            self.fetch(file, report)
        return self.files.read(file).removesuffix("\n").split("\n")

    def fetch(self, file: str, report: cache.Report | None = None) -> None:
        """Download and store one file."""
        arrived = cache.folder() / "downloads" / file
        with cache.lock(arrived):
            if self.files.path(file).is_file():
                return
            try:
                cache.download(self.url.format(file=file), arrived, report)
            except DataError as error:
                raise DataError(
                    f"{self.files.name}: {error}. With a copy at hand: {self.files.remedy}"
                ) from None
            content = arrived.read_bytes()
            arrived.unlink()
            self.files.put(file, content, self.url.format(file=file))

    def add(self, path: Path) -> tuple[list[str], list[str]]:
        """Store the files found in a file, folder or archive; returns (added, still missing) file names."""
        added = []
        for name, content in members(path, lambda name: name in self.files.digests):
            self.files.put(name, content, str(path))
            added.append(name)
        if not added:
            example = next(iter(self.files.digests))
            raise DataError(f"{path} holds no file of {self.files.name}; expected some like {example}")
        return added, [name for name in self.files.digests if not self.files.path(name).is_file()]


def parallel(source: Source, language: str, foreign: str | None, english: str) -> list[tuple[str, str]]:
    """(foreign, English) line by line; raises DataError where the set has no file of the language."""
    if foreign is None or foreign not in source.files.digests:
        raise DataError(f"{source.files.name} has no pairs of {language!r}")
    left, right = source.read(foreign), source.read(english)
    if len(left) != len(right):
        raise DataError(f"{foreign} has {len(left)} lines and {english} {len(right)}; expected as many")
    return [(a.strip(), b.strip()) for a, b in zip(left, right, strict=True)]
