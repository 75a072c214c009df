"""Which language a text is in, by py3langid: naive Bayes over byte n-grams, 140 languages, in its wheel."""

from enum import Enum
from functools import cache
from typing import Any

CONFIDENCE = 0.5
"""Below it the identifier is not believed."""


class Identified(Enum):
    """What the identifier says of a text, asked for a language."""

    TARGET = "target"
    OTHER = "other"
    UNSURE = "unsure"


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known() -> frozenset[str]:
    """The identifier's codes, ISO 639."""
    return frozenset(_identifier().labels)


def identify(text: str, code: str) -> Identified:
    """Whether `text` is in the language that the identifier calls `code`.

    The most likely language is believed where its probability is at least CONFIDENCE; the wanted one also
    below, since nothing else was more likely.
    """
    found, confidence = _identifier().classify(text)
    if found == code:
        return Identified.TARGET
    return Identified.OTHER if confidence >= CONFIDENCE else Identified.UNSURE
