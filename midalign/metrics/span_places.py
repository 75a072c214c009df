"""The places of an answer's values in an utterance, and xSID's overlap of spans.

An answer `slot: value; slot: value` says which values occur in the utterance but not where. So `located`
finds units (words, or characters) for its values:

1. a pair that the gold annotation has (the same label and the same units, in any case and however spaced) is
   taken to mean the gold place, each gold span once: an answer must not lose points for what its format
   cannot express;
2. every other pair, in the answer's order, gets the leftmost place where its value is written in whole units
   none of which is taken yet.

A pair without a place is a predicted span without a match.
"""

import re
from collections.abc import Sequence

from midalign.metrics.folding import FULL_STOPS, fold

Pair = tuple[str, str]
"""Label and value."""

Span = tuple[str, int, int]
"""Label, first unit, end."""

ANNOTATED_SPAN = re.compile(r"\[(\S+) : (.+?)\]")
"""A span of MASSIVE's annotation: `wake me at [time : nine am]`."""

UNSPACED = ("ja", "km", "lo", "my", "shn", "th", "wuu", "yue", "zh", "zh_cn", "zh_tw")
"""Languages written without blanks between words. The units of their spans are characters."""


def annotated_units(annotated: str, language: str) -> tuple[list[str], list[Span]]:
    """Return the units of an annotated utterance and the spans of its slots.

    Units are the folded characters without blanks in UNSPACED languages, and the words between blanks in all
    others. A bracket of the annotation ends a unit.
    """
    units, spans, end = list[str](), list[Span](), 0
    for match in ANNOTATED_SPAN.finditer(annotated):
        label, value = match.groups()
        units += _units(annotated[end : match.start()], language)
        start = len(units)
        units += _units(value, language)
        spans.append((label, start, len(units)))
        end = match.end()
    return units + _units(annotated[end:], language), spans


def _units(text: str, language: str) -> list[str]:
    return list(_spelling(text, language)) if language in UNSPACED else text.split()


def published_spans(
    pairs: Sequence[Pair], units: Sequence[str], spans: Sequence[Span], language: str
) -> tuple[list[Span], list[Span]]:
    """Return the places of an answer's pairs, and the gold spans, both as xSID's scorer represents spans.

    Pairs without a place are missing.
    """
    places = located(pairs, units, spans, language)
    predicted = [_published(span, len(units)) for span in places if span is not None]
    return predicted, [_published(span, len(units)) for span in spans]


def loose_matches(predicted: Sequence[Span], gold: Sequence[Span]) -> tuple[int, int]:
    """Return the matches of xSID's loose precision and recall, among spans of `published_spans`.

    Returns:
        The number of predicted spans that touch a gold one of their label, and the number of gold spans that
        touch a predicted one of their label.
    """
    return (
        sum(any(_touches(span, other) for other in gold) for span in predicted),
        sum(any(_touches(span, other) for other in predicted) for span in gold),
    )


def located(
    pairs: Sequence[Pair], units: Sequence[str], spans: Sequence[Span], language: str
) -> list[Span | None]:
    """Return the place of each pair in `units`, None if it has none, by the two rules of this module."""
    folded = [_spelling(unit, language) for unit in units]
    values = [_without_stop(_spelling(value, language)) for _, value in pairs]
    places: list[Span | None] = [None] * len(pairs)
    free = [True] * len(units)
    # 1. Pairs that the gold annotation has, each gold span once.
    unmatched = list(spans)
    for i, (label, _) in enumerate(pairs):
        for span in unmatched:
            if label == span[0] and values[i] == _without_stop("".join(folded[span[1] : span[2]])):
                places[i] = span
                free[span[1] : span[2]] = [False] * (span[2] - span[1])
                unmatched.remove(span)
                break
    # 2. All others, at the leftmost free units.
    for i, (label, _) in enumerate(pairs):
        place = _leftmost(values[i], folded, free) if places[i] is None and label else None
        if place is not None:
            places[i] = (label, *place)
            free[slice(*place)] = [False] * (place[1] - place[0])
    return places


def _leftmost(value: str, folded: Sequence[str], free: Sequence[bool]) -> tuple[int, int] | None:
    """Return first unit and end of the first free units that spell `value`.

    xSID has a few empty words, which never end a span.
    """
    for start, first in enumerate(folded):
        if not first or not value.startswith(_without_stop(first)):
            continue
        letters = ""
        for end in range(start, len(folded)):
            letters += folded[end]
            if not free[end] or not value.startswith(_without_stop(letters)):
                break
            if _without_stop(letters) == value:
                return start, end + 1
    return None


def _spelling(text: str, language: str) -> str:
    """Return a folded text without blanks. Units can be neighbours without a blank between them."""
    return "".join(fold(text, language).split())


def _without_stop(spelling: str) -> str:
    """Return a spelling without a final full stop, as values are compared."""
    return spelling.rstrip(FULL_STOPS) or spelling


def _published(span: Span, units: int) -> Span:
    """Return a span as xSID's scorer represents it.

    Its end is the unit after it, or the last unit if there is none. This keeps a quirk of the original: a
    span of the last two units looks like a span of the unit before the last.
    """
    label, start, end = span
    return label, start, min(end, units - 1)


def _touches(span: Span, other: Span) -> bool:
    """Return whether `other` has the same label and begins or ends within `span`.

    The unit after `span` counts as within. This keeps quirks of the original: neighbours touch, and a span
    does not touch a span that extends beyond it on both sides (but is touched by it).
    """
    (label, start, end), (other_label, other_start, other_end) = span, other
    return label == other_label and (start <= other_start <= end or start <= other_end <= end)
