"""The bundled mini benchmark: utterances with slots, parallel in ten languages.

scripts/build_mini.py writes its TSV files.
"""

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

from midalign.data import annotation
from midalign.data.items import Item
from midalign.data.segments import TranslatedSegment, sides, with_english
from midalign.errors import DataError, unknown_name
from midalign.languages import languages_of

LICENCE = "Apache-2.0"
CITATION = "midalign, CITATION.cff in its repository"
LEARNED_SPLIT = SHOT_SPLIT = "train"
PARALLEL = True
SPLITS = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}


def splits(part: str) -> list[str]:
    """Return the splits, which all languages and directions have."""
    return list(SPLITS)


def items(language: str, split: str) -> list[Item]:
    """Return the items of a split in file order. Raises DataError for an unknown language or split."""
    _, *lines = _file(language, split).read_text("utf-8").splitlines()
    rows = (line.split("\t") for line in lines)
    return [
        Item(id, intent, annotation.plain(annotated), annotated, annotation.slots(annotated))
        for id, intent, annotated in rows
    ]


def directions() -> list[str]:
    """Return the directions to and from English, sorted."""
    return with_english(languages_of("mini"))


def read(direction: str, split: str) -> list[TranslatedSegment]:
    """Return the utterances of a direction such as en-de, parallel by id, in file order.

    Raises like `items`.
    """
    sources, targets = (items(code, split) for code in sides(direction))
    return [
        TranslatedSegment(source.id, source.utterance, target.utterance)
        for source, target in zip(sources, targets, strict=True)
    ]


def digest(language: str, split: str) -> str:
    """Return the sha256 of the split's file, or of both files' digests for a direction."""
    if "-" in language:
        both = "".join(digest(code, split) for code in sides(language))
        return hashlib.sha256(both.encode()).hexdigest()
    return hashlib.sha256(_file(language, split).read_bytes()).hexdigest()


@cache
def labels(kind: Literal["intent", "slot"]) -> list[str]:
    """Return all intents or slots, sorted. They are the same in every language."""
    all_items = [item for split in SPLITS for item in items("en", split)]
    slots = {slot for item in all_items for slot, _ in item.slots}
    return sorted({item.intent for item in all_items} if kind == "intent" else slots)


def _file(language: str, split: str) -> Traversable:
    if language not in languages_of("mini"):
        raise DataError(unknown_name("The mini benchmark", "language", language, languages_of("mini")))
    if split not in SPLITS:
        raise DataError(f"No split {split!r}; expected one of {', '.join(SPLITS)}")
    return files("midalign") / "data" / "mini" / language / SPLITS[split]
