"""Slot filling on data with tagged words: the pairs of midalign.metrics.slot, and spans as xSID scores them.

xSID's own scorer (van der Goot et al. 2021, scripts/nluEval.py) reads BIO tags. An answer `slot: value; slot:
value` says which values occur in the utterance but not where. So `located` finds words for its values:

1. a pair that the gold annotation has (the same label and the same words, in any case and however spaced) is
   taken to mean the gold place, each gold span once: an answer must not lose points for what its format
   cannot express;
2. every other pair, in the answer's order, gets the leftmost place where its value is written in whole words
   none of which is taken yet.

A pair without a place is a predicted span without a match.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from midalign.metrics import slot
from midalign.metrics.description import MetricDescription, index_metrics
from midalign.metrics.folding import FULL_STOPS, fold
from midalign.metrics.slot import Counts, Pair, Rates, parse_slots

Span = tuple[str, int, int]
"""Label, first word, end."""

_PAIRS = tuple(name for name in slot.COLUMNS if not name.startswith("ref_"))

COLUMNS = (*_PAIRS, "strict_tp", "loose_tp_pred", "loose_tp_gold")
"""The counts of an item: those of midalign.metrics.slot without the procedure published for MASSIVE;
predicted spans equal to a gold one; predicted spans that touch a gold one of their label; gold spans that
touch a predicted one of their label. The numbers of predicted and gold spans equal those of pairs."""

AT_MOST = (
    *(relation for relation in slot.AT_MOST if set(relation) <= set(_PAIRS)),
    ("strict_tp", "loose_tp_pred"),
    ("strict_tp", "loose_tp_gold"),
    ("loose_tp_pred", "slot_pred"),
    ("loose_tp_gold", "slot_gold"),
)
"""Columns of an item that add up to at most the last one named."""

ADDED = slot.ADDED
"""Columns that records of earlier versions lack."""

HEADLINE = "slot_f1"


def count_spans(
    gold: Sequence[Pair],
    output: str,
    utterance: str,
    words: Sequence[str],
    spans: Sequence[Span],
    language: str,
) -> list[int]:
    """Return the COLUMNS of one item.

    Args:
        gold: (label, value) pairs.
        output: what the model answered.
        utterance: the text that the values should be copied from.
        words: the publisher's words of the utterance.
        spans: the places of `gold` in `words`.
        language: code of `languages.tsv`, for its capitals.
    """
    # The empty annotation skips the procedure published for MASSIVE.
    pairs = dict(zip(slot.COLUMNS, slot.count_slots(gold, output, utterance, "", language), strict=True))
    places = located(parse_slots(output).pairs, words, spans, language)
    predicted = [_published(span, len(words)) for span in places if span is not None]
    wanted = [_published(span, len(words)) for span in spans]
    return [
        *(pairs[name] for name in _PAIRS),
        len(set(predicted) & set(wanted)),
        sum(any(_touches(one, other) for other in wanted) for one in predicted),
        sum(any(_touches(one, other) for other in predicted) for one in wanted),
    ]


def located(
    pairs: Sequence[Pair], words: Sequence[str], spans: Sequence[Span], language: str
) -> list[Span | None]:
    """Return the place of each pair in `words`, None if it has none, by the two rules of this module."""
    folded = [_spelling(word, language) for word in words]
    values = [_without_stop(_spelling(value, language)) for _, value in pairs]
    places: list[Span | None] = [None] * len(pairs)
    free = [True] * len(words)
    # 1. Pairs that the gold annotation has, each gold span once.
    unmatched = list(spans)
    for i, (label, _) in enumerate(pairs):
        for span in unmatched:
            if label == span[0] and values[i] == _without_stop("".join(folded[span[1] : span[2]])):
                places[i] = span
                free[span[1] : span[2]] = [False] * (span[2] - span[1])
                unmatched.remove(span)
                break
    # 2. All others, at the leftmost free words.
    for i, (label, _) in enumerate(pairs):
        place = _leftmost(values[i], folded, free) if places[i] is None and label else None
        if place is not None:
            places[i] = (label, *place)
            free[slice(*place)] = [False] * (place[1] - place[0])
    return places


def _leftmost(value: str, folded: Sequence[str], free: Sequence[bool]) -> tuple[int, int] | None:
    """Return first word and end of the first free words that spell `value`.

    xSID has a few empty words. They never end a span.
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
    """Return a folded text without blanks. Words can be neighbours without a blank between them."""
    return "".join(fold(text, language).split())


def _without_stop(spelling: str) -> str:
    """Return a spelling without a final full stop, as values are compared."""
    return spelling.rstrip(FULL_STOPS) or spelling


def _published(span: Span, words: int) -> Span:
    """Return a span as xSID's scorer represents it.

    Its end is the word after it, or the last word if there is none. This keeps a quirk of the original: a
    span of the last two words looks like a span of the word before the last.
    """
    label, start, end = span
    return label, start, min(end, words - 1)


def _touches(one: Span, other: Span) -> bool:
    """Return whether `other` has the same label and begins or ends within `one`.

    The word after `one` counts as within. This keeps quirks of the original: neighbours touch, and a span
    does not touch a span that extends beyond it on both sides (but is touched by it).
    """
    (label, start, end), (other_label, other_start, other_end) = one, other
    return label == other_label and (start <= other_start <= end or start <= other_end <= end)


def _column(counts: Counts, name: str) -> Counts:
    column: Counts = counts[..., COLUMNS.index(name)]
    return column


def _f1(true_of_predicted: str, true_of_gold: str) -> Callable[[Counts], Rates]:
    """Return the harmonic mean of precision and recall.

    It is 0 if both are 0, and NaN without predicted and gold spans.
    """

    def f1(counts: Counts) -> Rates:
        predicted, gold = _column(counts, "slot_pred"), _column(counts, "slot_gold")
        precision = _column(counts, true_of_predicted) / np.maximum(predicted, 1)
        recall = _column(counts, true_of_gold) / np.maximum(gold, 1)
        both = precision + recall
        harmonic = 2 * precision * recall / np.where(both > 0, both, 1)
        return np.asarray(np.where(predicted + gold > 0, harmonic, np.nan))

    return f1


_AS_PAIRS = [COLUMNS.index(name) if name in COLUMNS else 0 for name in slot.COLUMNS]


def _of_pairs(name: str) -> MetricDescription:
    """Return a metric of midalign.metrics.slot, computed from the columns of this family."""
    metric = slot.METRICS[name]
    return replace(metric, function=lambda counts: metric(counts[..., _AS_PAIRS]))


METRICS = index_metrics(
    _of_pairs("slot_f1"),
    _of_pairs("slot_f1_verbatim"),
    MetricDescription("strict_f1", "strict span F1", _f1("strict_tp", "strict_tp")),
    MetricDescription("loose_f1", "loose span F1", _f1("loose_tp_pred", "loose_tp_gold")),
    _of_pairs("label_f1"),
    _of_pairs("value_f1"),
    _of_pairs("values_not_in_utterance"),
    _of_pairs("exact_match"),
    _of_pairs("well_formed"),
)
"""All are rates between 0 and 1."""

DIFFERENCE_METRICS = ("slot_f1", "strict_f1", "loose_f1", "label_f1", "value_f1", "values_not_in_utterance")
"""Metrics of the table of differences."""

DETAIL_METRICS = ("strict_f1", "loose_f1", "label_f1", "value_f1")
"""Metrics of the last table per language."""

DETAIL_TITLE = "Spans, labels and copying"

READABLE = "well_formed"
"""The column of answers that can be read, so that an empty one says that there is nothing."""

COMPARABLE = True
"""Scores of two languages count the same things."""
