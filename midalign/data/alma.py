"""ALMA's human-written pairs with English: WMT's earlier test sets and FLORES-200.

They contain NTREX's English and FLORES-200's dev and devtest, so do not train on them if those are scored.
"""

import json
from pathlib import Path

from midalign.data import lines
from midalign.data.cache import FileSet
from midalign.data.segments import TranslatedSegment, segments, sides, with_english
from midalign.errors import DataError, TaskError, unknown_name

LICENCE = "MIT (repository); texts from WMT and FLORES-200"
CITATION = "Xu et al. 2024, https://arxiv.org/abs/2309.11674"
LEARNED_SPLIT = SHOT_SPLIT = "train"
FILES = FileSet("alma")
_URL = "https://raw.githubusercontent.com/fe1ixxu/ALMA/master/human_written_data"


def add(path: Path) -> tuple[list[str], list[str]]:
    """Store the files found in a file, folder or archive. Returns (added, missing) file names."""
    return _source("cs").add(path)


def directions() -> list[str]:
    """Return the directions to and from English, sorted."""
    return with_english({file.split(".")[1].removesuffix("-en") for file in FILES.digests})


def splits(direction: str) -> list[str]:
    """Return the splits of a direction. Unknown directions have none, Icelandic has no validation split."""
    if direction not in directions():
        return []
    return ["train", "validation"] if f"valid.{_foreign(direction)}-en.json" in FILES.digests else ["train"]


def present(direction: str, split: str) -> bool:
    """Return whether the files of a direction's split are in the cache."""
    return all(FILES.path(file).is_file() for file in _files(direction, split))


def read(direction: str, split: str) -> list[TranslatedSegment]:
    """Return the segments of a direction in file order. Downloads them at first use.

    Icelandic has no validation split. Raises TaskError for an unknown direction or split, and DataError if
    files are missing or altered.
    """
    files = _files(direction, split)
    foreign = _foreign(direction)
    source = _source(foreign)
    if split == "validation":
        rows = [row["translation"] for row in json.loads("\n".join(source.read(files[0])))]
        sides_of = {code: [row[code] for row in rows] for code in (foreign, "en")}
    else:
        sides_of = {code: source.read(file) for code, file in zip((foreign, "en"), files, strict=True)}
    before, after = sides(direction)
    if len(sides_of[before]) != len(sides_of[after]):
        raise DataError(
            f"{files} have {len(sides_of[before])} and {len(sides_of[after])} lines; expected equal numbers"
        )
    return segments(f"alma-{foreign}-{split}", sides_of[before], sides_of[after])


def digest(direction: str, split: str) -> str:
    """Return the sha256 of the files' digests."""
    return FILES.digest(_files(direction, split))


def _files(direction: str, split: str) -> tuple[str, ...]:
    """Return the foreign and the English file. A validation split has one file."""
    if direction not in directions():
        raise TaskError(unknown_name("ALMA", "direction", direction, directions()))
    pair = f"{_foreign(direction)}-en"
    files = {
        "train": (f"train.{pair}.{_foreign(direction)}", f"train.{pair}.en"),
        "validation": (f"valid.{pair}.json",),
    }
    if split not in splits(direction):
        raise TaskError(f"ALMA has no split {split!r} of {direction}")
    return files[split]


def _foreign(direction: str) -> str:
    return next(code for code in sides(direction) if code != "en")


def _source(language: str) -> lines.LineFiles:
    return lines.LineFiles(FILES, f"{_URL}/{language}en/{{file}}")
