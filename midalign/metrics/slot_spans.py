"""Slot filling on data with tagged words: the pairs of midalign.metrics.slot, and spans as xSID scores them.

xSID's own scorer (van der Goot et al. 2021, scripts/nluEval.py) reads BIO tags. midalign.metrics.span_places
finds words of the utterance for an answer's values.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from midalign.metrics import slot
from midalign.metrics.description import MetricDescription, index_metrics
from midalign.metrics.rates import f1_of_shares
from midalign.metrics.slot import Counts, Rates, parse_slots
from midalign.metrics.span_places import Pair, Span, loose_matches, published_spans

_PAIRS = tuple(name for name in slot.COLUMNS if not name.startswith(("ref_", "loose_")))

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

ADDED = slot.ADDED & set(_PAIRS)
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
    predicted, wanted = published_spans(parse_slots(output).pairs, words, spans, language)
    return [
        *(pairs[name] for name in _PAIRS),
        len(set(predicted) & set(wanted)),
        *loose_matches(predicted, wanted),
    ]


def _column(counts: Counts, name: str) -> Counts:
    column: Counts = counts[..., COLUMNS.index(name)]
    return column


def _f1(true_of_predicted: str, true_of_gold: str) -> Callable[[Counts], Rates]:
    """Return the harmonic mean of precision and recall, NaN without predicted and gold spans."""

    def f1(counts: Counts) -> Rates:
        predicted, gold = _column(counts, "slot_pred"), _column(counts, "slot_gold")
        return f1_of_shares(
            _column(counts, true_of_predicted), predicted, _column(counts, true_of_gold), gold
        )

    return f1


_AS_PAIRS = [COLUMNS.index(name) if name in COLUMNS else 0 for name in slot.COLUMNS]


def _of_pairs(name: str) -> MetricDescription:
    """Return a metric of midalign.metrics.slot, computed from the columns of this family."""
    metric = slot.METRICS[name]
    return replace(metric, function=lambda counts: metric(counts[..., _AS_PAIRS]))


def _derived_of_pairs(name: str) -> Callable[[Counts], Counts]:
    """Return a derived column of midalign.metrics.slot, computed from the columns of this family."""
    derived = slot.DERIVED[name]
    return lambda counts: derived(counts[..., _AS_PAIRS])


DERIVED = {name: _derived_of_pairs(name) for name in slot.DERIVED}
"""Columns that follow from the other columns of an item."""

DERIVED_METRICS = slot.DERIVED_METRICS
"""Metrics that follow from the columns of every record."""


METRICS = index_metrics(
    _of_pairs("slot_f1"),
    _of_pairs("slot_f1_verbatim"),
    MetricDescription("strict_f1", "strict span F1", _f1("strict_tp", "strict_tp")),
    MetricDescription("loose_f1", "loose span F1", _f1("loose_tp_pred", "loose_tp_gold")),
    _of_pairs("label_f1"),
    _of_pairs("value_f1"),
    _of_pairs("missed"),
    _of_pairs("false_alarms"),
    _of_pairs("span_errors"),
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

LOSS_METRICS = ("missed", "false_alarms", "span_errors", "loose_f1")
"""Metrics of the tables of losses."""

READABLE = "well_formed"
"""The column of answers that can be read, so that an empty one says that there is nothing."""

COMPARABLE = True
"""Scores of two languages count the same things."""
