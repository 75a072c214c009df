"""WMT23's general task: sources and references of 14 directions.

Hebrew has two references. As in sacreBLEU and mt-metrics-eval, refB is the official one: the archive's README
says that refA may be a post-edited system output. The segments of en-de and de-en are paragraphs.
"""

from pathlib import Path

from midalign.data import lines
from midalign.data.cache import FileSet
from midalign.data.segments import TranslatedSegment, segments, sides
from midalign.errors import TaskError, unknown_name

LICENCE = "research use"
CITATION = "Kocmi et al. 2023, https://aclanthology.org/2023.wmt-1.1"
LEARNED_SPLIT = "test"
SHOT_SPLIT = "train"
FILES = FileSet("wmt23")
SPLITS = ("test",)
HEBREW_REFERENCE = "refB"
_URL = "https://raw.githubusercontent.com/wmt-conference/wmt23-news-systems/master/txt"
SOURCES = lines.LineFiles(FILES, f"{_URL}/sources/{{file}}")
REFERENCES = lines.LineFiles(FILES, f"{_URL}/references/{{file}}")


def add(path: Path) -> tuple[list[str], list[str]]:
    """Store the files found in a file, folder or archive. Returns (added, missing) file names."""
    return SOURCES.add(path)


def directions() -> list[str]:
    """Return all directions, sorted."""
    return sorted(file.split(".")[1] for file in FILES.digests if ".src." in file)


def splits(direction: str) -> list[str]:
    """Return the only split, which all directions have."""
    return list(SPLITS)


def read(direction: str, split: str) -> list[TranslatedSegment]:
    """Return the segments of a direction in file order. Downloads them at first use.

    Raises TaskError for an unknown direction or split, and DataError if files are missing or altered.
    """
    reference, source = _files(direction, split)
    return segments(f"wmt23-{direction}", SOURCES.read(source), REFERENCES.read(reference))


def digest(direction: str, split: str) -> str:
    """Return the sha256 of both files' digests."""
    return FILES.digest(_files(direction, split))


def named_reference(direction: str) -> str | None:
    """Return the name of a direction's reference if it has several, else None."""
    return HEBREW_REFERENCE if "he" in sides(direction) else None


def _files(direction: str, split: str) -> tuple[str, str]:
    """Return (reference, source)."""
    if direction not in directions():
        raise TaskError(unknown_name("WMT23", "direction", direction, directions()))
    if split not in SPLITS:
        raise TaskError(f"WMT23 has no split {split!r}; expected test")
    source, target = sides(direction)
    stem, reference = f"generaltest2023.{direction}", named_reference(direction) or "refA"
    return f"{stem}.ref.{reference}.{target}", f"{stem}.src.{source}"
