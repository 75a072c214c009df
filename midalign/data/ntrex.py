"""NTREX-128: 1,997 English news sentences in 128 languages."""

from midalign.data import lines
from midalign.data.cache import FileSet
from midalign.data.segments import TranslatedSegment, segments, sides, with_english
from midalign.errors import DataError, TaskError, unknown_name
from midalign.languages import language as known
from midalign.languages import languages_of

LICENCE = "CC BY-SA 4.0"
CITATION = "Federmann et al. 2022, https://aclanthology.org/2022.sumeval-1.4"
LEARNED_SPLIT = "test"
SHOT_SPLIT = "train"
SELECTION = 1
FILES = FileSet("ntrex")
SOURCE = lines.LineFiles(
    FILES, "https://raw.githubusercontent.com/MicrosoftTranslator/NTREX/main/NTREX-128/{file}"
)
ENGLISH = "newstest2019-src.eng.txt"
add = SOURCE.add


def pairs(language: str) -> list[tuple[str, str]]:
    """Return (foreign, English) pairs in file order. Raises DataError if the set lacks the language."""
    if language not in languages_of("ntrex"):
        raise DataError(
            f"ntrex has no pairs of {language!r}. Omit this language. The languages of ntrex: "
            f"midalign data languages"
        )
    return lines.line_pairs(SOURCE, _reference(language), ENGLISH)


def directions() -> list[str]:
    """Return the directions to and from English for each reference, sorted."""
    return with_english(languages_of("ntrex"))


def splits(direction: str) -> list[str]:
    """Return the only split, which all directions have."""
    return ["test"]


def read(direction: str, split: str) -> list[TranslatedSegment]:
    """Return the segments of a direction in file order. Downloads them at first use.

    Raises TaskError for an unknown direction or split, and DataError if files are missing or altered.
    """
    source, target = _files(direction, split)
    return segments("ntrex", SOURCE.read(source), SOURCE.read(target))


def digest(direction: str, split: str) -> str:
    """Return the sha256 of both files' digests."""
    return FILES.digest(_files(direction, split))


def _files(direction: str, split: str) -> tuple[str, str]:
    """Return (source, target)."""
    if direction not in directions():
        raise TaskError(unknown_name("NTREX", "direction", direction, directions()))
    if split != "test":
        raise TaskError(f"NTREX has no split {split!r}; expected test")
    source, target = (ENGLISH if code == "en" else _reference(code) for code in sides(direction))
    return source, target


def _reference(language: str) -> str:
    return f"newstest2019-ref.{known(language).codes['ntrex']}.txt"
