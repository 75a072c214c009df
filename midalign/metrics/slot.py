"""Slot filling, scored per item as integer counts. Every metric is a function of pooled counts.

An output is `slot: value; slot: value`, or `None`. Two scorers read it:

- the headline `slot_f1` compares typed values as a multiset: labels exactly, values after
  midalign.metrics.folding. Every predicted pair without a gold match is a false positive, whether its value
  occurs in the utterance or not. `slot_f1_verbatim` compares values character by character, and only those of
  outputs that are written exactly in the format;
- `slot_f1_reference` is the procedure that Liu and Niehues (2025) published, for comparison with their
  numbers, quirks included: predicted values are looked up in the utterance and dropped if they do not occur,
  every occurrence is tagged, later slots overwrite earlier ones, and runs of equal tags are scored as by
  seqeval.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midalign.metrics.description import MetricDescription, index_metrics
from midalign.metrics.folding import FULL_STOPS, fold, normalise
from midalign.metrics.rates import f1_of_shares, quotient
from midalign.metrics.span_places import Pair, annotated_units, loose_matches, published_spans

COLUMNS = (
    "n",
    "slot_tp",
    "slot_pred",
    "slot_gold",
    "ref_tp",
    "ref_pred",
    "ref_gold",
    "label_tp",
    "value_tp",
    "values_outside",
    "exact",
    "well_formed",
    "verbatim_tp",
    "loose_tp_pred",
    "loose_tp_gold",
    "with_slots",
    "missed_items",
    "false_alarm_items",
)
"""The counts of an item. `n` is 1; true positives, predicted and gold of both scorers; true positives of
labels and of values separately (predicted and gold are those of the pairs); predicted values that do not
occur in the utterance; whether all pairs are right; whether the output has the right format; true positives
without any folding, 0 if the output does not have the right format; predicted spans that touch a gold one of
their label and gold spans that touch a predicted one, see midalign.metrics.span_places; and the DERIVED
columns."""

ADDED = frozenset(
    {"verbatim_tp", "loose_tp_pred", "loose_tp_gold", "with_slots", "missed_items", "false_alarm_items"}
)
"""Columns that records of earlier versions lack."""

AT_MOST = (
    ("slot_tp", "label_tp"),
    ("slot_tp", "value_tp"),
    ("label_tp", "slot_pred"),
    ("label_tp", "slot_gold"),
    ("value_tp", "slot_pred"),
    ("value_tp", "slot_gold"),
    ("ref_tp", "ref_pred"),
    ("ref_tp", "ref_gold"),
    ("values_outside", "slot_pred"),
    ("exact", "n"),
    ("well_formed", "n"),
    ("verbatim_tp", "slot_tp"),
    ("loose_tp_pred", "slot_pred"),
    ("loose_tp_gold", "slot_gold"),
    ("missed_items", "with_slots"),
    ("with_slots", "slot_gold"),
    ("with_slots", "false_alarm_items", "n"),
    ("false_alarm_items", "slot_pred"),
)
"""Columns of an item that add up to at most the last one named."""

HEADLINE = "slot_f1"

NOTHING = "None"
"""The answer for an utterance without slots."""

OTHER = "Other"
"""The reference scorer's label of tokens outside slots."""

BY_CHARACTER = ("ja", "zh", "zh_cn", "zh_tw")
"""Languages that the reference scorer reads character by character: ja-JP, zh-CN, zh-TW, and the mini
benchmark's Chinese."""

BETWEEN_PAIRS = re.compile(r"[;；؛﹔︔]|[,，،、]\s*(?=[a-z][a-z_/-]*\s*[:：﹕︓])")
"""Semicolons of any script, and commas before another label. No value of MASSIVE contains such a semicolon or
comma (tests/metrics/test_slot.py)."""

AFTER_LABEL = re.compile("[:：﹕︓]")

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]


@dataclass(frozen=True)
class ParsedSlots:
    """An output read as pairs. A part without label or value is a pair with the empty label."""

    pairs: tuple[Pair, ...]
    well_formed: bool
    answered: bool
    """True if there are pairs, or the output says that there are none."""


def parse_slots(output: str) -> ParsedSlots:
    """Read `slot: value; slot: value` or `None`, tolerating what a human reader would.

    Semicolons and colons of any script separate, and so does a comma before another label. The first colon of
    a part ends its label, so a value may contain more of them. A part without a label counts as a pair that
    matches no gold pair: precision must not gain from text that is not a pair. Blanks around the separators
    and a final full stop do not change the pairs. Only an output that `target` could have written is well
    formed, and "none" in any case.
    """
    text = output.strip()
    if text.rstrip(f"{FULL_STOPS} ").casefold() == NOTHING.casefold():
        return ParsedSlots((), text.casefold() == NOTHING.casefold(), True)
    pairs = []
    for part in BETWEEN_PAIRS.split(text):
        label, *values = (piece.strip() for piece in AFTER_LABEL.split(part, maxsplit=1))
        if label and any(values):
            pairs.append((label, values[0]))
        elif part.strip(f"{FULL_STOPS} "):
            pairs.append(("", part.strip()))
    written = text == target(pairs) and not any(" " in label for label, _ in pairs)
    return ParsedSlots(tuple(pairs), bool(pairs) and written, bool(pairs))


def target(slots: Sequence[Pair]) -> str:
    """Return the right answer: `slot: value; slot: value` in order of appearance, or `None`."""
    return "; ".join(f"{label}: {value}" for label, value in slots) or NOTHING


def count_slots(
    gold: Sequence[Pair], output: str, utterance: str, annotated: str, language: str
) -> list[int]:
    """Return the COLUMNS of one item.

    Args:
        gold: (label, value) pairs.
        output: what the model answered.
        utterance: the text that the values should be copied from.
        annotated: the utterance with `[slot : value]` spans that are set off by blanks, as in MASSIVE.
        language: code of `languages.tsv`, for its capitals. The reference scorer reads some languages
            character by character.
    """
    # The headline's multisets of folded pairs.
    parsed = parse_slots(output)
    predicted = Counter((label, normalise(value, language)) for label, value in parsed.pairs)
    expected = Counter((label, normalise(value, language)) for label, value in gold)
    source = fold(utterance, language)
    # The reference scorer's spans of tokens.
    tokens, labels = reference_gold(annotated, language)
    reference_found = spans(reference_prediction(output, tokens, language))
    reference_wanted = spans(labels)
    # xSID's spans, in words or characters.
    units, gold_spans = annotated_units(annotated, language)
    loose = loose_matches(*published_spans(parsed.pairs, units, gold_spans, language))
    return [
        1,
        _shared(predicted.elements(), expected.elements()),
        len(parsed.pairs),
        len(gold),
        len(reference_found & reference_wanted),
        len(reference_found),
        len(reference_wanted),
        _shared((label for label, _ in predicted.elements()), (label for label, _ in expected.elements())),
        _shared((value for _, value in predicted.elements()), (value for _, value in expected.elements())),
        sum(value not in source for _, value in predicted.elements()),
        # An empty output has no pairs, but it does not answer "None" either.
        int(predicted == expected and parsed.answered),
        int(parsed.well_formed),
        _shared(parsed.pairs, gold) if parsed.well_formed else 0,
        *loose,
        int(bool(gold)),
        int(bool(gold) and not parsed.pairs),
        int(bool(parsed.pairs) and not gold),
    ]


def _shared(first: Iterable[Hashable], second: Iterable[Hashable]) -> int:
    """Return the size of the intersection of two multisets."""
    return (Counter(first) & Counter(second)).total()


def reference_gold(annotated: str, language: str) -> tuple[list[str], list[str]]:
    """Return tokens and their labels as the published scorer reads them from an annotation.

    The original splits the utterance at white space. In all of MASSIVE this gives the same tokens (checked by
    a test).
    """
    if language in BY_CHARACTER:
        return _gold_by_character(annotated)
    tokens, labels, label = list[str](), list[str](), OTHER
    chunks = iter(annotated.split())
    for chunk in chunks:
        if chunk.startswith("["):
            label = chunk[1:]
            next(chunks, None)  # the colon
            continue
        tokens.append(chunk.removesuffix("]"))
        labels.append(label)
        if chunk.endswith("]"):
            label = OTHER
    return tokens, labels


def _gold_by_character(annotated: str) -> tuple[list[str], list[str]]:
    tokens, labels, label = list[str](), list[str](), OTHER
    chunks = iter(annotated.split())
    for chunk in chunks:
        if chunk.startswith("["):
            label = chunk[1:]
            next(chunks, None)
        elif chunk.isascii():  # one token, and its bracket does not close the label: a quirk of the original
            tokens.append(chunk.removesuffix("]"))
            labels.append(label)
        else:
            for character in chunk:
                if character == "]":
                    label = OTHER
                else:
                    tokens.append(character)
                    labels.append(label)
    return tokens, labels


def reference_prediction(output: str, tokens: Sequence[str], language: str) -> list[str]:
    """Return a label per token: every occurrence of a predicted value is labelled, later slots win."""
    labels = [OTHER] * len(tokens)
    text = output.strip()
    if text.lower() == NOTHING.lower():
        return labels
    lowered = [token.lower() for token in tokens]
    for part in text.split("; "):
        pieces = part.split(": ")
        if len(pieces) != 2:  # also a value with ": " inside: a quirk of the original
            continue
        label, value = pieces
        wanted = list(value.lower()) if language in BY_CHARACTER else value.lower().split()
        if not wanted:  # the original stops here with an IndexError
            continue
        for start in range(len(lowered) - len(wanted) + 1):
            if lowered[start : start + len(wanted)] == wanted:
                labels[start : start + len(wanted)] = [label] * len(wanted)
    return labels


def spans(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return (label, first token, end) of runs of equal labels.

    They equal seqeval's entities if each run is tagged with B- and I-.
    """
    found, start = set(), 0
    for end in range(1, len(labels) + 1):
        if end == len(labels) or labels[end] != labels[start]:
            if labels[start] != OTHER:
                found.add((labels[start], start, end))
            start = end
    return found


def _column(counts: Counts, name: str) -> Counts:
    column: Counts = counts[..., COLUMNS.index(name)]
    return column


def _f1(true: str, predicted: str, gold: str) -> Callable[[Counts], Rates]:
    """Return micro F1 = 2 tp / (predicted + gold), NaN without predicted and gold slots."""

    def f1(counts: Counts) -> Rates:
        return quotient(2 * _column(counts, true), _column(counts, predicted) + _column(counts, gold))

    return f1


def _share(part: str, whole: str) -> Callable[[Counts], Rates]:
    def share(counts: Counts) -> Rates:
        return quotient(_column(counts, part), _column(counts, whole))

    return share


def _with_slots(counts: Counts) -> Counts:
    """Return 1 for items with gold slots."""
    return np.asarray(_column(counts, "slot_gold") > 0, np.int64)


def _missed(counts: Counts) -> Counts:
    """Return 1 for items with gold slots and no predicted pair."""
    return np.asarray(_with_slots(counts) * (_column(counts, "slot_pred") == 0))


def _false_alarms(counts: Counts) -> Counts:
    """Return 1 for items without gold slots and with a predicted pair."""
    return np.asarray((1 - _with_slots(counts)) * (_column(counts, "slot_pred") > 0))


DERIVED: dict[str, Callable[[Counts], Counts]] = {
    "with_slots": _with_slots,
    "missed_items": _missed,
    "false_alarm_items": _false_alarms,
}
"""Columns that follow from the other columns of an item, so that older records get them: items with gold
slots; items with gold slots that are answered without a pair ("None" or nothing); items without gold slots
that are answered with a pair. Each function takes counts per item (items, COLUMNS) and gives (items,)."""


def _false_alarm_rate(counts: Counts) -> Rates:
    """Return false_alarm_items / (n - with_slots), NaN if every item has slots."""
    return quotient(
        _column(counts, "false_alarm_items"), _column(counts, "n") - _column(counts, "with_slots")
    )


def _span_error_rate(counts: Counts) -> Rates:
    """Return (label_tp - slot_tp) / label_tp, NaN without a right label.

    Per label of an item, predicted and gold pairs that match exactly can be set aside. The others still
    share min(predicted, gold) - exact labels. So `label_tp - slot_tp` counts the pairs whose label is right
    and whose value is wrong, and it follows from the pooled counts of every record.
    """
    labels = _column(counts, "label_tp")
    return quotient(labels - _column(counts, "slot_tp"), labels)


def _loose_f1(counts: Counts) -> Rates:
    """Return xSID's loose F1, NaN without predicted and gold slots."""
    columns = ("loose_tp_pred", "slot_pred", "loose_tp_gold", "slot_gold")
    return f1_of_shares(*(_column(counts, name) for name in columns))


METRICS = index_metrics(
    MetricDescription("slot_f1", "slot F1", _f1("slot_tp", "slot_pred", "slot_gold")),
    MetricDescription("slot_f1_verbatim", "slot F1, verbatim", _f1("verbatim_tp", "slot_pred", "slot_gold")),
    MetricDescription(
        "slot_f1_reference", "slot F1, published procedure", _f1("ref_tp", "ref_pred", "ref_gold")
    ),
    MetricDescription("label_f1", "label F1", _f1("label_tp", "slot_pred", "slot_gold")),
    MetricDescription("value_f1", "value F1", _f1("value_tp", "slot_pred", "slot_gold")),
    MetricDescription("missed", "missed", _share("missed_items", "with_slots"), higher_is_better=False),
    MetricDescription("false_alarms", "false alarms", _false_alarm_rate, higher_is_better=False),
    MetricDescription("span_errors", "span errors", _span_error_rate, higher_is_better=False),
    MetricDescription("loose_f1", "loose span F1", _loose_f1),
    MetricDescription(
        "values_not_in_utterance",
        "values not in the utterance",
        _share("values_outside", "slot_pred"),
        higher_is_better=False,
    ),
    MetricDescription("exact_match", "exact match", _share("exact", "n")),
    MetricDescription("well_formed", "well-formed outputs", _share("well_formed", "n")),
)
"""All are rates between 0 and 1."""

DERIVED_METRICS = ("missed", "false_alarms", "span_errors")
"""Metrics that follow from the columns of every record."""

DIFFERENCE_METRICS = ("slot_f1", "label_f1", "value_f1", "values_not_in_utterance", "slot_f1_reference")
"""Metrics of the table of differences."""

DETAIL_METRICS = ("label_f1", "value_f1", "values_not_in_utterance")
"""Metrics of the last table per language."""

DETAIL_TITLE = "Labels, values and copying"

LOSS_METRICS = ("missed", "false_alarms", "span_errors", "loose_f1")
"""Metrics of the tables of losses."""

READABLE = "well_formed"
"""The column of answers that can be read, so that an empty one says that there is nothing."""

COMPARABLE = True
"""Scores of two languages count the same things."""
