"""The item type of slot data sets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One utterance with its intent and its slots, (label, value) in order of appearance."""

    id: str
    intent: str
    utterance: str
    annotated: str
    slots: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TaggedItem(Item):
    """An utterance that the publisher has split into words."""

    words: tuple[str, ...]
    spans: tuple[tuple[str, int, int], ...]
    """(label, first word, end) of `slots`, in the same order."""
