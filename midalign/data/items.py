"""The item that slot data sets share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One utterance with its intent and its slots, (label, value) in order of appearance."""

    id: str
    intent: str
    utterance: str
    annotated: str
    slots: tuple[tuple[str, str], ...]
