"""FLORES-200: Wikimedia sentences in 204 languages (NLLB Team 2022), CC BY-SA 4.0."""

import hashlib
import logging
from pathlib import Path

from midalign.data import cache
from midalign.data.archive import members
from midalign.data.segments import TranslatedSegment, segments, sides, with_english
from midalign.errors import DataError, TaskError, unknown_name
from midalign.languages import language as known
from midalign.languages import languages_of

log = logging.getLogger(__name__)

LICENCE = "CC BY-SA 4.0"
CITATION = "NLLB Team 2022, https://arxiv.org/abs/2207.04672"
LEARNED_SPLIT: str | None = None
SHOT_SPLIT = "validation"
URL = "https://dl.fbaipublicfiles.com/nllb/flores200_dataset.tar.gz"
SHA256 = "b8b0b76783024b85797e5cc75064eb83fc5288b41e9654dabc7be6ae944011f6"
"""Of the archive at URL, 25,585,843 bytes, as several projects have published it."""
SPLITS = {"validation": "dev", "test": "devtest"}
FILES = cache.FileSet("flores")
"""`<code>.dev` and `<code>.devtest`: line counts, and the few sha256 that two others have published alike."""


def directions() -> list[str]:
    """Return the directions to and from English, sorted."""
    return with_english(languages_of("flores"))


def splits(direction: str) -> list[str]:
    """Return the splits, which all directions have."""
    return list(SPLITS)


def read(direction: str, split: str) -> list[TranslatedSegment]:
    """Return the segments of a direction in file order. Downloads the archive at first use.

    Raises TaskError for an unknown direction or split, and DataError if files are missing, altered or of
    different lengths.
    """
    files = _files(direction, split)
    _here(files)
    source, target = (FILES.read(file).removesuffix("\n").split("\n") for file in files)
    if len(source) != len(target):
        raise DataError(
            f"{files[0]} has {len(source)} lines and {files[1]} {len(target)}; expected as many. "
            f"Add the whole set again: {FILES.remedy}"
        )
    return segments(f"flores-{SPLITS[split]}", source, target)


def digest(direction: str, split: str) -> str:
    """Return the sha256 of both files' digests."""
    files = _files(direction, split)
    _here(files)
    return FILES.digest(files)


def add(path: Path) -> tuple[list[str], list[str]]:
    """Store the `<code>.dev` and `<code>.devtest` files found in a file, folder or archive.

    Returns (added, still missing) file names. Anything but the official archive is checked: UTF-8, the same
    number of lines in each file of a split, and no empty line. Byte order marks and carriage returns are
    dropped. Raises DataError with file and line.
    """
    official = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    found = {
        name: content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
        for name, content in members(path, lambda name: name in FILES.digests)
    }
    if not found:
        raise DataError(f"{path} holds no file of flores; expected some like eng_Latn.dev, eng_Latn.devtest")
    if not official:
        _check(found, path)
    for name, content in found.items():
        FILES.keep(name, content, str(path))
    return list(found), [name for name in FILES.digests if not FILES.path(name).is_file()]


def _add_official(archive: Path) -> None:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    if sha256 != SHA256:
        raise DataError(f"{archive} has sha256 {sha256[:16]}...; expected {SHA256[:16]}...")
    add(archive)


def _check(found: dict[str, bytes], path: Path) -> None:
    """Raise DataError for files whose lines cannot be parallel.

    Warns if the release has other numbers of lines.
    """
    first: dict[str, tuple[str, int]] = {}
    for name, content in found.items():
        try:
            lines = content.decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeError as error:
            raise DataError(f"{path}, {name}: not UTF-8 ({error})") from None
        empty = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
        if empty is not None:
            raise DataError(f"{path}, {name}, line {empty}: empty; expected a sentence")
        split = name.rpartition(".")[2]
        other, expected = first.setdefault(split, (name, len(lines)))
        if len(lines) != expected:
            raise DataError(
                f"{path}: {other} has {expected} lines and {name} {len(lines)}; expected as many, since line "
                "n of one translates line n of the other"
            )
    for split, (name, lines_of_all) in first.items():
        official, _ = FILES.digests[name]
        if lines_of_all != official:
            log.warning(
                "%s: %d lines in each .%s file, where FLORES-200 has %d. They are kept, and scores on them "
                "are not comparable with published ones",
                *(path, lines_of_all, split, official),
            )


def _here(files: tuple[str, str]) -> None:
    """Download and store the whole set where a file is missing."""
    if not all(FILES.path(file).is_file() for file in files):
        FILES.fetch(URL, lambda: all(FILES.path(file).is_file() for file in FILES.digests), _add_official)


def _files(direction: str, split: str) -> tuple[str, str]:
    """Return (source, target)."""
    if direction not in directions():
        raise TaskError(unknown_name("FLORES-200", "direction", direction, directions()))
    if split not in SPLITS:
        raise TaskError(f"FLORES-200 has no split {split!r}; expected validation or test")
    source, target = (f"{known(code).codes['flores']}.{SPLITS[split]}" for code in sides(direction))
    return source, target
