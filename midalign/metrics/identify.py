"""Identify whether a text is in a given language, by script and by py3langid.

py3langid is naive Bayes over byte n-grams for 140 languages, with its model in the wheel. It confuses close
relatives (Malay and Indonesian, Xhosa and Zulu) and lacks many languages. So not one label is expected of an
output: any label that the identifier gives to the language's own reference translations counts as the
language. These labels are in `labels.tsv`, which scripts/calibrate_identifier.py writes.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Any

from midalign.metrics.script import in_script

CONFIDENCE = 0.5
"""Probability below which the identifier's label is ignored."""


class Identified(Enum):
    """Verdict on a text that should be in a language."""

    TARGET = "target"
    OTHER = "other"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Wanted:
    """Identifier of the language that a text should be in."""

    script: str
    """ISO 15924, empty if no text can be judged."""
    labels: frozenset[str]
    """The identifier's labels that count as the language, empty if only the script is judged."""


NOTHING = Wanted("", frozenset())
"""For a language that cannot be identified."""


def wanted(code: str, script: str, identifier: str) -> Wanted:
    """Return what identifies a language.

    Without calibrated labels, it is the identifier's own label for the language. Without that label, only the
    script is judged, unless it is the Latin script, in which English would pass.

    Args:
        code: code of `languages.tsv`.
        script: ISO 15924.
        identifier: the identifier's label of the language, empty if it has none.
    """
    labels = calibrated().get(code) or frozenset(filter(None, [identifier]))
    return Wanted(script, labels) if labels or script != "Latn" else NOTHING


@cache
def calibrated() -> dict[str, frozenset[str]]:
    """Return the labels that the identifier gives to the languages' references, by code."""
    _, *lines = (files("midalign.metrics") / "labels.tsv").read_text("utf-8").splitlines()
    return {code: frozenset(labels.split()) for code, labels in (line.split("\t") for line in lines)}


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known() -> frozenset[str]:
    """Return the identifier's labels, ISO 639."""
    return frozenset(_identifier().labels)


def label_of(text: str) -> tuple[str, float]:
    """Return the most likely label and its probability."""
    label, confidence = _identifier().classify(text)
    return str(label), float(confidence)


def identify(text: str, language: Wanted) -> Identified:
    """Return whether `text` is in a language.

    A text in another script is in another language. Otherwise the most likely label decides. The label of
    another language counts if its probability is at least CONFIDENCE.
    """
    written = in_script(text, language.script) if language.script else None
    if written is None:
        return Identified.UNSURE
    if not written:
        return Identified.OTHER
    if not language.labels:
        return Identified.TARGET
    label, confidence = label_of(text)
    if label in language.labels:
        return Identified.TARGET
    return Identified.OTHER if confidence >= CONFIDENCE else Identified.UNSURE
