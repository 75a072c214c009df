"""JSON-structured generation, scored per item as integer counts. Every metric is a function of pooled counts.

An output is one line of JSON: the entities of a text, `{"entities": [{"type": "PER", "text": "Ada"}]}`, or an
utterance as a function call, `{"name": "alarm_set", "arguments": [{"slot": "time", "value": "nine am"}]}`.
It is read in layers: whether it parses, whether it complies with the task's JSON Schema, and whether its
spans are right. A span is a pair of type and text, or of slot and value. Spans are compared as a multiset,
types exactly, texts after midalign.metrics.folding.

Only RFC 8259's JSON parses, with a fixed list of exceptions, and nothing is repaired: see `parse_json`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midalign.metrics.description import MetricDescription, index_metrics
from midalign.metrics.folding import fold, normalise
from midalign.metrics.rates import quotient

COLUMNS = (
    "n",
    "parses",
    "complies",
    "span_tp",
    "span_pred",
    "span_gold",
    "parsed_gold",
    "located_tp",
    "in_source",
    "exact",
    "intent",
    "calls",
)
"""The counts of an item. `n` is 1; whether the output parses and complies with the schema; true positives,
predicted and gold spans; gold spans again if the output parses; true positives by place; predicted texts that
occur in the source; whether everything is right; whether the intent is right; whether there is an intent."""

AT_MOST = (
    ("parses", "n"),
    ("complies", "parses"),
    ("span_tp", "span_pred"),
    ("span_tp", "parsed_gold"),
    ("parsed_gold", "span_gold"),
    ("located_tp", "span_pred"),
    ("located_tp", "span_gold"),
    ("in_source", "span_pred"),
    ("exact", "complies"),
    ("intent", "parses"),
    ("intent", "calls"),
    ("calls", "n"),
)
"""Columns of an item that add up to at most the last one named."""

ADDED: frozenset[str] = frozenset()
"""Columns that records of earlier versions lack."""

DERIVED: dict[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {}
"""Columns that follow from the other columns of an item."""

DERIVED_METRICS: tuple[str, ...] = ()
"""Metrics that follow from the columns of every record."""

LOSS_METRICS: tuple[str, ...] = ()
"""Metrics of the tables of losses."""

HEADLINE = "span_f1"

LONGEST = 100_000
"""Number of characters. Longer outputs do not parse."""

DEEPEST = 32
"""Levels of nesting. Deeper outputs do not parse. The tasks' schemas have three."""

Pair = tuple[str, str]
Place = tuple[int, int]
"""First character of a token in its text, and end."""
Span = tuple[str, int, int]
"""Type, first token, end."""
Counts = NDArray[np.int64]
Rates = NDArray[np.float64]

_LISTS = {"entities": ("type", "text"), "arguments": ("slot", "value")}
"""The list of spans in an answer, and the names of a span's sides."""

_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{\]}]', re.DOTALL)


@dataclass(frozen=True)
class ParsedJson:
    """An output read as JSON. `value` is None if it does not parse."""

    parses: bool
    value: Any


@dataclass(frozen=True)
class Tagged:
    """The tokens of a text and its gold spans, to score spans as tags of tokens."""

    tokens: Sequence[Place]
    spans: Sequence[Span]


def parse_json(output: str) -> ParsedJson:
    r"""Read an output as one JSON value (RFC 8259), ignoring white space around it.

    Nothing is removed or repaired: a code fence, text before or after the value, a trailing comma, single
    quotes, a comment, and a raw control character in a string do not parse. Neither do four things that some
    parsers accept: a duplicate key in an object (I-JSON, RFC 7493), NaN and Infinity, nesting deeper than
    DEEPEST, and an output longer than LONGEST. Escapes are decoded: `\u00e9` is `é`.
    """
    if len(output) > LONGEST or _depth(output) > DEEPEST:
        return ParsedJson(False, None)
    try:
        value = json.loads(output, object_pairs_hook=_without_duplicates, parse_constant=_no_number)
        return ParsedJson(True, value)
    except ValueError:  # also raised for a number with more digits than Python reads
        return ParsedJson(False, None)


def _depth(text: str) -> int:
    """Return the deepest nesting, or for texts with few brackets an upper bound of it."""
    if (brackets := text.count("[") + text.count("{")) <= DEEPEST:
        return brackets
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.findall(text):
        depth += (match in "[{") - (match in "]}")
        deepest = max(deepest, depth)
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) < len(pairs):
        raise ValueError("duplicate key")
    return items


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def entities(spans: Sequence[Pair]) -> str:
    """Return the right answer for a text: its entities in order of appearance."""
    return _line({"entities": [{"type": type, "text": text} for type, text in spans]})


def call(intent: str, slots: Sequence[Pair]) -> str:
    """Return the right answer for an utterance: a function call, its arguments in order of appearance.

    Arguments are a list, since a slot may occur twice.
    """
    return _line({"name": intent, "arguments": [{"slot": slot, "value": value} for slot, value in slots]})


def _line(answer: dict[str, Any]) -> str:
    return json.dumps(answer, ensure_ascii=False)


def listed_pairs(value: Any, name: str) -> list[Pair]:
    """Return the spans in the list `name` of a parsed answer, even if the rest of the answer does not comply.

    An entry that is not an object with both sides as strings becomes an empty pair, which equals no gold
    span: precision must not gain from it. If the list is missing, nothing was predicted.
    """
    listed = value.get(name) if isinstance(value, dict) else None
    return [_pair(entry, *_LISTS[name]) for entry in listed] if isinstance(listed, list) else []


def _pair(entry: Any, label_key: str, text_key: str) -> Pair:
    if not isinstance(entry, dict):
        return ("", "")
    label, text = entry.get(label_key), entry.get(text_key)
    return (label, text) if isinstance(label, str) and isinstance(text, str) else ("", "")


def count_structured(
    target: str,
    output: str,
    source: str,
    complies: Callable[[Any], bool],
    language: str,
    tagged: Tagged | None = None,
) -> list[int]:
    """Return the COLUMNS of one item.

    Args:
        target: the right answer, made by `entities` or `call`.
        output: what the model answered.
        source: the text that the spans should be copied from.
        complies: returns whether a JSON value complies with the task's schema.
        language: code of `languages.tsv`, for its capitals.
        tagged: tokens and gold spans of the source, if the gold spans have places.
    """
    # Both sides as multisets of (label, folded text).
    gold, answer = json.loads(target), parse_json(output)
    name = "entities" if "entities" in gold else "arguments"
    gold_pairs, answer_pairs = listed_pairs(gold, name), listed_pairs(answer.value, name)
    expected = Counter((label, normalise(text, language)) for label, text in gold_pairs)
    predicted = Counter((label, normalise(text, language)) for label, text in answer_pairs)
    valid = answer.parses and complies(answer.value)
    intent = gold.get("name")
    intent_right = (
        intent is not None and isinstance(answer.value, dict) and answer.value.get("name") == intent
    )
    text = fold(source, language)
    return [
        1,
        int(answer.parses),
        int(valid),
        (expected & predicted).total(),
        len(answer_pairs),
        len(gold_pairs),
        len(gold_pairs) * answer.parses,
        len(set(locate(answer_pairs, source, tagged, language)) & set(tagged.spans)) if tagged else 0,
        sum(value != "" and value in text for _, value in predicted.elements()),
        int(valid and predicted == expected and (intent is None or intent_right)),
        int(intent_right),
        int(intent is not None),
    ]


def locate(spans: Sequence[Pair], text: str, tagged: Tagged, language: str) -> list[Span | None]:
    """Return the place of each predicted span in the text, None if there is none.

    An answer contains texts, while tags have places. So in the answer's order, each span gets the leftmost
    run of whole tokens that equals it after folding and that no earlier span has taken. If there are several
    such runs, those that the annotators marked come first: an answer cannot say which one it means, and the
    right one must not count as wrong. A full stop at the end of the span must match if the text has it there,
    and is ignored otherwise.
    """
    taken = [False] * len(tagged.tokens)
    marked = {(start, end) for _, start, end in tagged.spans}
    folded, runs = fold(text, language), dict[str, list[Place]]()
    places: list[Span | None] = []
    for label, value in spans:
        # All runs that equal the value, or without any, those that equal it without its full stop.
        wanted = fold(value, language)
        if wanted not in runs:
            runs[wanted] = (
                _runs(wanted, text, tagged.tokens, language, fold) if wanted and wanted in folded else []
            )
            bare = normalise(value, language)
            if bare and bare in folded and not runs[wanted]:
                runs[wanted] = _runs(bare, text, tagged.tokens, language, normalise)
        # The leftmost free run, marked ones first.
        free = [run for run in runs[wanted] if not any(taken[run[0] : run[1]])]
        if not free:
            places.append(None)
            continue
        start, end = min(free, key=lambda run: (run not in marked, run))
        taken[start:end] = [True] * (end - start)
        places.append((label, start, end))
    return places


def _runs(
    wanted: str, text: str, tokens: Sequence[Place], language: str, read_as: Callable[[str, str], str]
) -> list[Place]:
    """Return (first token, end) of the runs of tokens that `read_as` makes equal to a folded text."""
    runs = []
    for first, (start, _) in enumerate(tokens):
        for last in range(first, len(tokens)):
            read = read_as(text[start : tokens[last][1]], language)
            if read == wanted:
                runs.append((first, last + 1))
            if not wanted.startswith(read):
                break
    return runs


def _column(counts: Counts, name: str) -> Counts:
    column: Counts = counts[..., COLUMNS.index(name)]
    return column


def _f1(true: str, predicted: str, gold: str) -> Callable[[Counts], Rates]:
    """Return micro F1 = 2 tp / (predicted + gold), NaN without predicted and gold spans."""

    def f1(counts: Counts) -> Rates:
        return quotient(2 * _column(counts, true), _column(counts, predicted) + _column(counts, gold))

    return f1


def _share(part: str, whole: str) -> Callable[[Counts], Rates]:
    def share(counts: Counts) -> Rates:
        return quotient(_column(counts, part), _column(counts, whole))

    return share


METRICS = index_metrics(
    MetricDescription("span_f1", "span F1", _f1("span_tp", "span_pred", "span_gold")),
    MetricDescription(
        "span_f1_parsed", "span F1 of the outputs that parse", _f1("span_tp", "span_pred", "parsed_gold")
    ),
    MetricDescription("span_f1_seqeval", "span F1, by tags", _f1("located_tp", "span_pred", "span_gold")),
    MetricDescription("parses", "outputs that parse", _share("parses", "n")),
    MetricDescription("complies", "outputs that comply with the schema", _share("complies", "n")),
    MetricDescription(
        "values_in_source", "values that stand in the source", _share("in_source", "span_pred")
    ),
    MetricDescription("exact_match", "exact match", _share("exact", "n")),
    MetricDescription("intent_accuracy", "intent accuracy", _share("intent", "calls")),
)
"""All are rates between 0 and 1."""

DIFFERENCE_METRICS = (
    "span_f1",
    "span_f1_seqeval",
    "span_f1_parsed",
    "exact_match",
    "intent_accuracy",
    "complies",
    "values_in_source",
)
"""Metrics of the table of differences, if a task has them."""

DETAIL_METRICS = ("parses", "complies", "values_in_source")
"""Metrics of the last table per language."""

DETAIL_TITLE = "Form and copying"

READABLE = "complies"
"""The column of answers that can be read, so that an empty one says that there is nothing."""

COMPARABLE = True
"""Scores of two languages count the same things."""
