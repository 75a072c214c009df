"""FLORES-200: Wikimedia sentences in 204 languages."""

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
"""Digest of the archive at URL (25,585,843 bytes), as several projects have published it."""
SPLITS = {"validation": "dev", "test": "devtest"}
FILES = cache.FileSet("flores")
"""`<code>.dev` and `<code>.devtest` with line counts, and the few sha256 that two projects have published."""


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
    _ensure_present(files)
    source, target = (FILES.read(file).removesuffix("\n").split("\n") for file in files)
    if len(source) != len(target):
        raise DataError(
            f"{files[0]} has {len(source)} lines and {files[1]} {len(target)}; expected equal numbers. "
            f"Add the whole set again: {FILES.remedy}"
        )
    return segments(f"flores-{SPLITS[split]}", source, target)


def digest(direction: str, split: str) -> str:
    """Return the sha256 of both files' digests."""
    files = _files(direction, split)
    _ensure_present(files)
    return FILES.digest(files)


def add(path: Path) -> tuple[list[str], list[str]]:
    """Store the `<code>.dev` and `<code>.devtest` files found in a file, folder or archive.

    Returns (added, missing) file names. Byte order marks and carriage returns are dropped. Unless it is the
    official archive, all files of a split must have the same number of lines, none of them empty, in UTF-8.
    Raises DataError with file and line otherwise.
    """
    official = path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    contents = {
        name: content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
        for name, content in members(path, lambda name: name in FILES.digests)
    }
    if not contents:
        raise DataError(
            f"{path} holds no file of flores; expected files such as eng_Latn.dev and eng_Latn.devtest"
        )
    if not official:
        _check(contents, path)
    for name, content in contents.items():
        FILES.keep(name, content, str(path))
    return list(contents), [name for name in FILES.digests if not FILES.path(name).is_file()]


def _add_official(archive: Path) -> None:
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    if sha256 != SHA256:
        raise DataError(f"{archive} has sha256 {sha256[:16]}...; expected {SHA256[:16]}...")
    add(archive)


def _check(contents: dict[str, bytes], path: Path) -> None:
    """Raise DataError for files whose lines cannot be parallel.

    Logs a warning if the numbers of lines are not those of the release.
    """
    first: dict[str, tuple[str, int]] = {}
    for name, content in contents.items():
        try:
            lines = content.decode("utf-8").removesuffix("\n").split("\n")
        except UnicodeError as error:
            raise DataError(f"{path}, {name}: not UTF-8 ({error})") from error
        empty = next((number for number, line in enumerate(lines, start=1) if not line.strip()), None)
        if empty is not None:
            raise DataError(f"{path}, {name}, line {empty}: empty; expected a sentence")
        split = name.rpartition(".")[2]
        other, expected = first.setdefault(split, (name, len(lines)))
        if len(lines) != expected:
            raise DataError(
                f"{path}: {other} has {expected} lines and {name} {len(lines)}; expected equal numbers, "
                "since line n of one file translates line n of the other"
            )
    for split, (name, lines_of_all) in first.items():
        official, _ = FILES.digests[name]
        if lines_of_all != official:
            log.warning(
                "%s: %d lines in each .%s file, where FLORES-200 has %d. The files are kept. Scores on them "
                "are not comparable with published ones",
                *(path, lines_of_all, split, official),
            )


def _ensure_present(files: tuple[str, str]) -> None:
    """Download and store the whole data set if a file is missing."""
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
