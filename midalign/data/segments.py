"""Segments and directions of translation data sets."""

from collections.abc import Iterable
from dataclasses import dataclass

from midalign.errors import TaskError


@dataclass(frozen=True)
class TranslatedSegment:
    """One source text with its translation. `id` is the same for a text in all directions of a data set."""

    id: str
    source: str
    target: str


def sides(direction: str) -> tuple[str, str]:
    """Return the codes of source and target of a direction such as en-de. Raises TaskError otherwise."""
    source, dash, target = direction.partition("-")
    if not dash or not source or not target or "-" in target:
        raise TaskError(f"{direction!r} is not a direction; expected two codes such as en-de")
    return source, target


def with_english(languages: Iterable[str]) -> list[str]:
    """Return the directions from and to English of some languages, sorted."""
    foreign = [code for code in languages if code != "en"]
    return sorted(direction for code in foreign for direction in (f"en-{code}", f"{code}-en"))


def segments(prefix: str, source: list[str], target: list[str]) -> list[TranslatedSegment]:
    """Join line n of one list with line n of the other, with the id `<prefix>-<n>`."""
    return [
        TranslatedSegment(f"{prefix}-{number}", before.strip(), after.strip())
        for number, (before, after) in enumerate(zip(source, target, strict=True))
    ]
