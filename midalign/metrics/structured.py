"""JSON-structured generation, scored per item as integer counts; every metric is a function of pooled counts.

An output is one line of JSON: the entities of a text, `{"entities": [{"type": "PER", "text": "Ada"}]}`, or an
utterance as a function call, `{"name": "alarm_set", "arguments": [{"slot": "time", "value": "nine am"}]}`.
It is read in layers: does it parse, does it comply with the task's JSON Schema, are its spans right. A span
is a pair of type and text, or of slot and value; spans are compared as a multiset, types exactly, texts after
midalign.metrics.folding.

What parses is RFC 8259's JSON but for a fixed list of exceptions, and nothing is repaired: see `parse_json`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
stand in the source; whether all is right; whether the intent is right; whether there is one to get right."""

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

HEADLINE = "span_f1"

LONGEST = 100_000
"""Characters; an output with more of them does not parse."""

DEEPEST = 32
"""Levels of nesting; what goes deeper does not parse. A schema of ours has three."""

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
    """An output read as JSON; `value` is None where it does not parse."""

    parses: bool
    value: Any


@dataclass(frozen=True)
class Tagged:
    """A text whose gold spans have places, so that they can be scored as tags of its tokens."""

    tokens: Sequence[Place]
    spans: Sequence[Span]


def parse_json(output: str) -> ParsedJson:
    r"""Read an output as one JSON value (RFC 8259), white space around it aside.

    Nothing is cut away or repaired: a code fence, text before or behind, a trailing comma, single quotes, a
    comment, and a raw control character in a string do not parse. Neither do four things that some
    parsers let through: a key that stands twice in an object (I-JSON, RFC 7493), NaN and Infinity, nesting
    deeper than DEEPEST, an output longer than LONGEST. Escapes are what they stand for: `\u00e9` is `é`.
    """
    if len(output) > LONGEST or _depth(output) > DEEPEST:
        return ParsedJson(False, None)
    try:
        value = json.loads(output, object_pairs_hook=_without_duplicates, parse_constant=_no_number)
        return ParsedJson(True, value)
    except ValueError:  # also of a number with more digits than Python reads
        return ParsedJson(False, None)


def _depth(text: str) -> int:
    """Return the deepest nesting. For texts with few brackets it is an upper bound."""
    if (brackets := text.count("[") + text.count("{")) <= DEEPEST:
        return brackets
    depth = deepest = 0
    for found in _STRING_OR_BRACKET.findall(text):
        depth += (found in "[{") - (found in "]}")
        deepest = max(deepest, depth)
    return deepest


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


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
    span: precision must not gain from it. If the list itself is missing, nothing was predicted.
    """
    listed = value.get(name) if isinstance(value, dict) else None
    return [_pair(one, *_LISTS[name]) for one in listed] if isinstance(listed, list) else []


def _pair(one: Any, label: str, text: str) -> Pair:
    if not isinstance(one, dict):
        return ("", "")
    found = one.get(label), one.get(text)
    return (found[0], found[1]) if isinstance(found[0], str) and isinstance(found[1], str) else ("", "")


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
        target: the right answer, by `entities` or `call`.
        output: what the model answered.
        source: the text that the spans should be copied from.
        complies: whether a JSON value complies with the task's schema.
        language: code of `languages.tsv`, for its capitals.
        tagged: tokens and gold spans of the source, where these have places.
    """
    gold, answer = json.loads(target), parse_json(output)
    name = "entities" if "entities" in gold else "arguments"
    wanted, said = listed_pairs(gold, name), listed_pairs(answer.value, name)
    expected = Counter((label, normalise(text, language)) for label, text in wanted)
    predicted = Counter((label, normalise(text, language)) for label, text in said)
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
        len(said),
        len(wanted),
        len(wanted) * answer.parses,
        len(set(locate(said, source, tagged, language)) & set(tagged.spans)) if tagged else 0,
        sum(value != "" and value in text for _, value in predicted.elements()),
        int(valid and predicted == expected and (intent is None or intent_right)),
        int(intent_right),
        int(intent is not None),
    ]


def locate(spans: Sequence[Pair], text: str, tagged: Tagged, language: str) -> list[Span | None]:
    """Return the place of each predicted span in the text, None if there is none.

    An answer names texts, tags have places. So spans are taken in the answer's order, and each gets the
    leftmost run of whole tokens that reads like it (texts folded as everywhere) and that no earlier span has
    taken. If the text occurs more than once, places that the annotators marked come first: an answer cannot
    say which of two it means, and the right one must not count as wrong. A full stop behind the span is part
    of the tagged text if the text has it, and does not count otherwise.
    """
    taken = [False] * len(tagged.tokens)
    marked = {(start, end) for _, start, end in tagged.spans}
    folded, runs = fold(text, language), dict[str, list[Place]]()
    found: list[Span | None] = []
    for label, value in spans:
        wanted = fold(value, language)
        if wanted not in runs:
            runs[wanted] = (
                _runs(wanted, text, tagged.tokens, language, fold) if wanted and wanted in folded else []
            )
            bare = normalise(value, language)
            if bare and bare in folded and not runs[wanted]:
                runs[wanted] = _runs(bare, text, tagged.tokens, language, normalise)
        free = [run for run in runs[wanted] if not any(taken[run[0] : run[1]])]
        if not free:
            found.append(None)
            continue
        start, end = min(free, key=lambda run: (run not in marked, run))
        taken[start:end] = [True] * (end - start)
        found.append((label, start, end))
    return found


def _runs(
    wanted: str, text: str, tokens: Sequence[Place], language: str, read_as: Callable[[str, str], str]
) -> list[Place]:
    """Return (first token, end) of the runs of tokens that `read_as` makes equal to a folded text."""
    found = []
    for first, (start, _) in enumerate(tokens):
        for last in range(first, len(tokens)):
            read = read_as(text[start : tokens[last][1]], language)
            if read == wanted:
                found.append((first, last + 1))
            if not wanted.startswith(read):
                break
    return found


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


METRICS: dict[str, Callable[[Counts], Rates]] = {
    "span_f1": _f1("span_tp", "span_pred", "span_gold"),
    "span_f1_parsed": _f1("span_tp", "span_pred", "parsed_gold"),
    "span_f1_seqeval": _f1("located_tp", "span_pred", "span_gold"),
    "parses": _share("parses", "n"),
    "complies": _share("complies", "n"),
    "values_in_source": _share("in_source", "span_pred"),
    "exact_match": _share("exact", "n"),
    "intent_accuracy": _share("intent", "calls"),
}
"""Each takes pooled counts (..., columns) and gives rates (...) between 0 and 1, NaN without a case."""

LOWER_IS_BETTER: frozenset[str] = frozenset()
"""Metrics that count faults."""

READABLE = "complies"
"""The column of answers that say nothing where they have nothing, instead of failing to say it."""

PERCENT: frozenset[str] = frozenset()
"""No metric is in per cent."""

COMPARABLE = True
"""Scores in two languages count the same things."""
