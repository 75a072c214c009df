"""The headline by brute force; the score by tags against seqeval itself; what parses and what does not."""

import json
import math
import random
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from midalign.metrics.structured import (
    COLUMNS,
    DEEPEST,
    HEADLINE,
    LONGEST,
    METRICS,
    Tagged,
    call,
    count_structured,
    entities,
    parse_json,
)

Pair = tuple[str, str]
Span = tuple[str, int, int]

# --- tags for seqeval, derived from the description and from nothing of ours ---


def fold(text: str) -> str:
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(text.split())


def tags(
    said: list[Pair], text: str, tokens: list[tuple[int, int]], spans: list[Span]
) -> tuple[list[str], list[str]]:
    """Gold and predicted tags; a prediction without a place is a token of its own behind the sentence."""
    gold, predicted = ["O"] * len(tokens), ["O"] * len(tokens)
    for label, first, end in spans:
        gold[first:end] = [f"B-{label}"] + [f"I-{label}"] * (end - first - 1)
    for label, value in said:
        places = [
            (first, end)
            for first in range(len(tokens))
            for end in range(first + 1, len(tokens) + 1)
            if fold(value) and fold(text[tokens[first][0] : tokens[end - 1][1]]) == fold(value)
            if all(tag == "O" for tag in predicted[first:end])
        ]
        entities_of_gold = [place for place in places if place in {(a, b) for _, a, b in spans}]
        if places:
            first, end = (entities_of_gold or places)[0]
            predicted[first:end] = [f"B-{label}"] + [f"I-{label}"] * (end - first - 1)
        else:
            gold.append("O")
            predicted.append(f"B-{label}")
    return gold, predicted


Row = tuple[str, list[tuple[int, int]], list[Span], str]
"""Text, tokens, gold spans, output."""


def by_seqeval(rows: list[Row]) -> float:
    gold, predicted = [], []
    for text, tokens, spans, output in rows:
        try:
            said = [(one["type"], one["text"]) for one in json.loads(output)["entities"]]
        except ValueError:
            said = []
        right, wrong = tags(said, text, tokens, spans)
        gold.append(right)
        predicted.append(wrong)
    return float(f1_score(gold, predicted, mode="strict", scheme=IOB2, zero_division=0))


def target_of(text: str, tokens: list[tuple[int, int]], spans: list[Span]) -> str:
    return entities([(label, text[tokens[first][0] : tokens[end - 1][1]]) for label, first, end in spans])


def anything(value: Any) -> bool:
    return True


def ours(rows: list[Row]) -> dict[str, float]:
    counts = [
        count_structured(target_of(text, tokens, spans), output, text, anything, "de", Tagged(tokens, spans))
        for text, tokens, spans, output in rows
    ]
    return {name: float(metric(np.array(counts).sum(0))) for name, metric in METRICS.items()}


@st.composite
def sentences(draw: st.DrawFn) -> Row:
    """Few words, so that many stand there twice; entities that do not overlap; an output that may be off."""
    words = draw(st.lists(st.sampled_from(("a", "A", "b", "ab", "三", "É")), min_size=1, max_size=9))
    glue = draw(st.sampled_from((" ", "", "  ")))
    text, tokens = "", []
    for word in words:
        tokens.append((len(text), len(text) + len(word)))
        text += word + glue
    spans: list[Span] = []
    end = 0
    while end < len(words):
        first = end
        end = first + draw(st.integers(1, 3))
        if end <= len(words) and draw(st.booleans()):
            spans.append((draw(st.sampled_from(("PER", "LOC"))), first, end))
    gold = json.loads(target_of(text, tokens, spans))["entities"]
    label = st.sampled_from(("PER", "LOC", "ORG"))
    value = st.sampled_from(("a", "b", "ab", "a b", "b a", "三", "e\u0301", "zz", "", " "))
    invented = st.builds(lambda label, value: {"type": label, "text": value}, label, value)
    said = draw(
        st.lists(invented | (st.sampled_from(gold) if gold else invented), max_size=5) | st.just(gold)
    )
    return text, tokens, spans, draw(st.sampled_from((json.dumps({"entities": said}),) * 4 + ("{",)))


@pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning", "ignore:.*NE tag")
@given(st.lists(sentences(), min_size=1, max_size=4))
def test_the_score_by_tags_is_seqevals_strict_micro_f1(rows: list[Row]) -> None:
    # seqeval has 0 where nothing is predicted and nothing is gold, which is no case here.
    assert np.nan_to_num(ours(rows)["span_f1_seqeval"]) == pytest.approx(by_seqeval(rows), abs=1e-9)


@given(st.lists(sentences(), min_size=1, max_size=4))
def test_gold_scores_one_by_tags_wherever_its_texts_stand_twice(rows: list[Row]) -> None:
    right = [(text, tokens, spans, target_of(text, tokens, spans)) for text, tokens, spans, _ in rows]
    scores = ours(right)
    some = 1 if any(spans for _, _, spans, _ in rows) else math.nan  # no case without any span
    for metric in ("span_f1_seqeval", "span_f1", "span_f1_parsed", "values_in_source"):
        assert scores[metric] == pytest.approx(some, nan_ok=True), metric
    assert scores["exact_match"] == scores["parses"] == 1


@pytest.mark.parametrize(
    ("said", "tp"),
    [
        (["may", "May Day"], 2),  # the first "may" is none, the second is marked
        (["May Day", "may"], 2),
        (["may", "may", "may", "May Day"], 1),  # the third takes a word of "May Day", which has no place then
        (["May Day", "Day"], 1),  # a word of "May Day" is taken
        (["be may", "may"], 0),  # the marked one is taken, though not as the first of its words
        (["y Da", "ma"], 0),  # words are not cut
        (["may may"], 0),
    ],
)
def test_where_spans_are_placed(said: list[str], tp: int) -> None:
    text = "it may be may on May Day"
    tokens = [(0, 2), (3, 6), (7, 9), (10, 13), (14, 16), (17, 20), (21, 24)]
    spans = [("D", 3, 4), ("D", 5, 7)]
    row = (text, tokens, spans, entities([("D", value) for value in said]))
    assert ours([row])["span_f1_seqeval"] == pytest.approx(2 * tp / (len(said) + 2)) == by_seqeval([row])


# --- every script of Universal NER ---


def corrupted(said: list[Pair], text: str, chance: random.Random) -> str:
    """Outputs as models get them wrong: lost, invented, retyped, cut, repeated, respelt or broken."""
    kept = [
        (chance.choice((label, label, label, "ORG", "MISC")), value)
        for label, value in said
        if chance.random() < 0.8
    ]
    words = text.split()
    for _ in range(chance.choice((0, 0, 1, 2))):
        start = chance.randrange(len(words))
        kept.append(
            (chance.choice(("PER", "LOC", "ORG")), " ".join(words[start : start + chance.randint(1, 3)]))
        )
    if chance.random() < 0.2:  # a stretch of characters, which may cut words
        start = chance.randrange(len(text))
        kept.append(("LOC", text[start : start + chance.randint(1, 6)]))
    if kept and chance.random() < 0.2:
        kept.append(chance.choice(kept))
    if chance.random() < 0.2:
        kept.append(("PER", "somebody else"))
    if chance.random() < 0.2:
        chance.shuffle(kept)
    if kept and chance.random() < 0.1:
        label, value = kept[0]
        kept[0] = (label, unicodedata.normalize("NFD", value.upper()))
    output = entities(kept)
    return output[: chance.randrange(len(output))] if chance.random() < 0.1 else output


@pytest.mark.exhaustive
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("script", ["Latn", "Cyrl", "Hans"])
@pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning", "ignore:.*NE tag")
def test_uner_is_scored_as_seqeval_does_in_every_script(
    store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """10,000 corrupted predictions a script, compared a hundred at a time and all together."""
    from midalign.data import uner
    from midalign.languages import language

    monkeypatch.setenv("MIDALIGN_CACHE", store_once(uner))
    assert {language(code).script for code in uner.treebanks().values()} == {"Latn", "Cyrl", "Hans"}
    names = [name for name, code in uner.treebanks().items() if language(code).script == script]
    everything = [one for name in names for one in uner.sentences(name, "test")]
    chance = random.Random(0)
    rows: list[Row] = []
    for _ in range(10_000):
        one = chance.choice(everything)
        output = corrupted(one.entities, one.text, chance)
        rows.append((one.text, list(one.tokens), list(one.spans), output))
    for start in range(0, len(rows), 100):
        batch = rows[start : start + 100]
        assert ours(batch)["span_f1_seqeval"] == pytest.approx(by_seqeval(batch), abs=1e-9)
    f1 = ours(rows)["span_f1_seqeval"]
    assert 0.2 < f1 < 0.8
    assert f1 == pytest.approx(by_seqeval(rows), abs=1e-9)


# --- the headline ---


def overlap(predicted: list[Pair], gold: list[Pair]) -> int:
    """True positives by hand: strike out one gold span for each predicted one that equals it."""
    left, hits = [(label, fold(value)) for label, value in gold], 0
    for label, value in predicted:
        if (label, fold(value)) in left:
            left.remove((label, fold(value)))
            hits += 1
    return hits


SPANS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(("x", "X", "É", "e\u0301", "p  q"))), max_size=5
)


@given(SPANS, SPANS, st.sampled_from(("go", "stop")))
def test_headline_is_a_multiset_overlap(gold: list[Pair], predicted: list[Pair], intent: str) -> None:
    row = scores(call("go", gold), call(intent, predicted), "x p q")
    assert row["span_tp"] == overlap(predicted, gold)
    assert (row["span_pred"], row["span_gold"], row["parsed_gold"]) == (len(predicted), len(gold), len(gold))
    assert row["in_source"] == sum(fold(value) in "x p q" for _, value in predicted)
    same = overlap(predicted, gold) == len(gold) == len(predicted)
    assert (row["intent"], row["calls"]) == (intent == "go", 1)
    assert row["exact"] == (same and intent == "go")


def scores(
    target: str, output: str, source: str = "wake me at nine am", complies: Callable[[Any], bool] = anything
) -> dict[str, int]:
    return dict(zip(COLUMNS, count_structured(target, output, source, complies, "de"), strict=True))


RIGHT = call("alarm_set", [("time", "nine am")])


@pytest.mark.parametrize(
    ("output", "parses", "pred", "tp", "exact", "intent"),
    [
        (RIGHT, 1, 1, 1, 1, 1),
        (f"  {RIGHT}\t", 1, 1, 1, 1, 1),
        (RIGHT.replace(" ", ""), 1, 1, 0, 0, 1),  # the value lost its blank
        (RIGHT.replace("nine am", "NINE   AM"), 1, 1, 1, 1, 1),
        (RIGHT.replace("nine am", "nine\\u0020am"), 1, 1, 1, 1, 1),
        (RIGHT.replace("nine am", "\\ud800"), 1, 1, 0, 0, 1),  # half a character
        (RIGHT.replace('"time"', '"Time"'), 1, 1, 0, 0, 1),  # types are exact
        (RIGHT.replace("alarm_set", "alarm_get"), 1, 1, 1, 0, 0),
        (call("alarm_set", [("time", "nine am")] * 2), 1, 2, 1, 0, 1),
        ('{"name": "alarm_set", "arguments": {"time": "nine am"}}', 1, 0, 0, 0, 1),
        ('{"name": "alarm_set", "arguments": ["nine am", {"slot": 1, "value": "nine am"}]}', 1, 2, 0, 0, 1),
        ('{"name": ["alarm_set"]}', 1, 0, 0, 0, 0),
        ("[]", 1, 0, 0, 0, 0),
        ("null", 1, 0, 0, 0, 0),
        ('"alarm_set"', 1, 0, 0, 0, 0),
        (f"```json {RIGHT} ```", 0, 0, 0, 0, 0),
        (f"Here you are: {RIGHT}", 0, 0, 0, 0, 0),
        (f"{RIGHT} I hope this helps", 0, 0, 0, 0, 0),
        (f"{RIGHT}{RIGHT}", 0, 0, 0, 0, 0),
        (RIGHT.replace("}]", "},]"), 0, 0, 0, 0, 0),  # a trailing comma
        (RIGHT.replace("]}", "],}"), 0, 0, 0, 0, 0),
        (RIGHT.replace('"', "'"), 0, 0, 0, 0, 0),
        (RIGHT[:-1], 0, 0, 0, 0, 0),
        (RIGHT.replace("nine", "nine\x01"), 0, 0, 0, 0, 0),
        (RIGHT.replace("nine", "\\x"), 0, 0, 0, 0, 0),
        (RIGHT.replace("{", '{"name": "alarm_set", ', 1), 0, 0, 0, 0, 0),  # a key twice
        ('{"name": NaN}', 0, 0, 0, 0, 0),
        ('{"name": -Infinity}', 0, 0, 0, 0, 0),
        ("1" * 5000, 0, 0, 0, 0, 0),
        ("\ufeff" + RIGHT, 0, 0, 0, 0, 0),
        ("", 0, 0, 0, 0, 0),
        ("\x00", 0, 0, 0, 0, 0),
    ],
)
def test_one_output(output: str, parses: int, pred: int, tp: int, exact: int, intent: int) -> None:
    row = scores(RIGHT, output)
    found = tuple(row[name] for name in ("parses", "span_pred", "span_tp", "exact", "intent"))
    assert found == (parses, pred, tp, exact, intent)
    assert (row["n"], row["span_gold"], row["parsed_gold"], row["calls"]) == (1, 1, parses, 1)


def test_what_does_not_comply_is_not_exact_but_its_spans_count() -> None:
    row = scores(RIGHT, RIGHT, complies=lambda value: False)
    assert (row["parses"], row["complies"], row["span_tp"], row["exact"]) == (1, 0, 1, 0)


def test_what_is_no_span_stands_nowhere_in_the_source() -> None:
    for one in ('""', '"nine am"', '{"slot": "", "value": ""}', '{"slot": 1, "value": "nine am"}', "null"):
        row = scores(RIGHT, f'{{"name": "alarm_set", "arguments": [{one}]}}')
        assert (row["span_pred"], row["in_source"], row["span_tp"]) == (1, 0, 0), one
    assert scores(RIGHT, RIGHT)["in_source"] == 1


def test_a_text_without_entities() -> None:
    empty = entities([])
    assert scores(empty, empty)["exact"] == 1
    assert scores(empty, "{}", complies=lambda value: "entities" in value)["exact"] == 0
    assert scores(empty, "")["exact"] == 0
    assert scores(empty, empty)["calls"] == 0


# --- what parses ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_all_json_is_read_back(value: Any, ascii: bool) -> None:
    read = parse_json(f" {json.dumps(value, ensure_ascii=ascii)}\n")
    assert read.parses
    assert read.value == value


@given(st.text() | st.text(alphabet='{}[]",:\\ntrue01.e- ', max_size=40))
def test_nothing_is_repaired(output: str) -> None:
    """What the standard library refuses does not parse; what parses is what the library reads."""
    read = parse_json(output)
    try:
        expected = json.loads(output)
    except ValueError:
        assert not read.parses
    else:
        assert not read.parses or read.value == expected


@given(st.text(), st.text(max_size=30))
def test_counts_of_anything_are_consistent(output: str, source: str) -> None:
    row = scores(entities([("PER", "Ada"), ("LOC", "Paris")]), output, source)
    assert 0 <= row["span_tp"] <= min(row["span_pred"], row["span_gold"])
    assert row["in_source"] <= row["span_pred"]
    assert row["exact"] <= row["complies"] <= row["parses"]
    rates = [float(metric(np.array(list(row.values())))) for metric in METRICS.values()]
    assert all(np.isnan(rate) or 0 <= rate <= 1 for rate in rates)


def test_nesting_has_a_limit_and_brackets_in_strings_are_no_nesting() -> None:
    assert parse_json("[" * DEEPEST + "]" * DEEPEST).parses
    assert not parse_json("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)).parses
    assert parse_json(json.dumps({"a": ['[{"' * 50, "\\" * 50 + "[" * 50], "b": [[]] * 50})).parses
    for bomb in (
        "[" * 99_999,
        '{"a":' * 20_000,
        "[{" * 40_000 + "}]" * 9_000,
        '"' + "\\" * 99_000 + "[" * 99,
    ):
        assert not parse_json(bomb).parses


def test_an_output_of_a_megabyte_does_not_parse_and_one_below_the_limit_is_scored() -> None:
    one = ("PER", "Ada")
    most = (LONGEST - len(entities([]))) // len(entities([one, one]).removeprefix(entities([one])[:-2]))
    text, tokens = "Ada and Ada", [(0, 3), (4, 7), (8, 11)]
    tagged = Tagged(tokens, [("PER", 0, 1), ("PER", 2, 3)])
    gold = entities([one, one])
    row = dict(
        zip(
            COLUMNS,
            count_structured(gold, entities([one] * (most - 1)), text, anything, "de", tagged),
            strict=True,
        )
    )
    assert row["parses"] == 1
    assert row["span_pred"] > 2000
    assert row["span_tp"] == row["located_tp"] == 2
    large = entities([one] * 35_000)
    assert len(large) > 1_000_000
    assert not parse_json(large).parses
    assert not parse_json(" " + '"' + "a" * LONGEST + '"').parses


def test_metrics_broadcast_and_have_no_value_of_nothing() -> None:
    empty = np.zeros((3, 4, len(COLUMNS)), np.int64)
    for metric in METRICS.values():
        assert metric(empty).shape == (3, 4)
        assert np.isnan(metric(empty)).all()
    assert next(iter(METRICS)) == HEADLINE


def test_the_worked_example_of_the_readme() -> None:
    """tasks/midalign/structured/README.md, "A worked example"."""
    text = "Ada Lovelace met Ada Byron in London ."
    tokens = [(0, 3), (4, 12), (13, 16), (17, 20), (21, 26), (27, 29), (30, 36), (37, 38)]
    spans = [("PER", 0, 2), ("PER", 3, 5), ("LOC", 6, 7)]
    said = entities([("PER", "ada lovelace"), ("PER", "Ada"), ("ORG", "London"), ("LOC", "Paris")])
    found = ours([(text, tokens, spans, said)])
    assert found["span_f1"] == pytest.approx(2 / 7)
    assert found["span_f1_seqeval"] == pytest.approx(2 / 7)
    assert found["values_in_source"] == pytest.approx(3 / 4)
    assert found["exact_match"] == 0
    both = ours([(text, tokens, spans, said), (text, tokens, spans, said[:-1])])
    assert both["span_f1"] == pytest.approx(2 / 10)
    assert both["span_f1_parsed"] == pytest.approx(2 / 7)
    assert both["parses"] == 0.5


@pytest.mark.parametrize(
    ("text", "tokens", "answer", "located"),
    [
        ("in London .", [(0, 2), (3, 9), (10, 11)], "London", 1),
        ("in London .", [(0, 2), (3, 9), (10, 11)], "London .", 0),  # tags the full stop
        ("in London", [(0, 2), (3, 9)], "London.", 1),
    ],
)
def test_a_full_stop_is_tagged_where_the_text_has_it(
    text: str, tokens: list[tuple[int, int]], answer: str, located: int
) -> None:
    """The headline reads the same place in all three."""
    tagged = Tagged(tokens, [("LOC", 1, 2)])
    gold, output = entities([("LOC", "London")]), entities([("LOC", answer)])
    row = dict(zip(COLUMNS, count_structured(gold, output, text, anything, "en", tagged), strict=True))
    assert (row["span_tp"], row["located_tp"]) == (1, located)
