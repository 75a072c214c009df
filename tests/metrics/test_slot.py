"""The headline by brute force; the reference against a literal re-implementation scored by seqeval itself."""

import random
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score

from midalign.data import annotation
from midalign.languages import languages
from midalign.metrics.folding import fold, normalise
from midalign.metrics.slot import (
    BETWEEN_PAIRS,
    COLUMNS,
    DERIVED,
    HEADLINE,
    METRICS,
    count_slots,
    parse_slots,
    target,
)

# --- the published procedure, written down again from its description, for seqeval ---


def original_gold(utt: str, annot_utt: str, locale: str) -> tuple[list[str], list[str]]:
    tokens, labels, label = utt.split(), [], "Other"
    split = annot_utt.split()
    skip = False
    if locale in ("ja-JP", "zh-CN", "zh-TW"):
        tokens = []
        for chunk in split:
            if skip:
                skip = False
                continue
            if chunk.startswith("["):
                label, skip = chunk.lstrip("["), True
                continue
            if all(ord(c) < 128 for c in chunk):
                tokens.append(chunk[:-1] if chunk.endswith("]") else chunk)
                labels.append(label)
                continue
            for character in chunk:
                if character == "]":
                    label = "Other"
                else:
                    tokens.append(character)
                    labels.append(label)
        return tokens, labels
    for chunk in split:
        if skip:
            skip = False
            continue
        if chunk.startswith("["):
            label, skip = chunk.lstrip("["), True
            continue
        labels.append(label)
        if chunk.endswith("]"):
            label = "Other"
    return tokens, labels


def original_prediction(line: str, tokens: list[str], locale: str) -> list[str]:
    labels = ["Other" for _ in tokens]
    if line.strip().lower() != "none":
        for part in line.strip().split("; "):
            try:
                label, value = part.split(": ")
            except ValueError:
                continue
            words = list(value) if locale in ("ja-JP", "zh-CN", "zh-TW") else value.split()
            if not words:
                continue
            for i in range(len(tokens)):
                window = tokens[i : i + len(words)]
                if [w.lower() for w in window] == [w.lower() for w in words]:
                    for j in range(i, i + len(words)):
                        labels[j] = label
    return labels


def bio(labels: list[str]) -> list[str]:
    tags, last = [], "Other"
    for label in labels:
        tags.append("O" if label == "Other" else f"{'I' if label == last else 'B'}-{label}")
        last = label
    return tags


def original_f1(rows: list[tuple[str, str, str]], locale: str) -> float:
    """seqeval's micro F1 over (utt, annot_utt, output)."""
    gold, predicted = [], []
    for utt, annot_utt, output in rows:
        tokens, labels = original_gold(utt, annot_utt, locale)
        gold.append(bio(labels))
        predicted.append(bio(original_prediction(output, tokens, locale)))
    return float(f1_score(gold, predicted))


def ours(rows: list[tuple[str, str, str]], language: str) -> dict[str, float]:
    counts = np.array([count_slots(annotation.slots(a), out, u, a, language) for u, a, out in rows])
    return {name: float(metric(counts.sum(0))) for name, metric in METRICS.items()}


# --- random rows ---

WORDS = ("uno", "DUE", "tre", "a:", "x", "None", "三", "Über", "é")
LABELS = ("time", "date", "O", "B-x", "Other", "song_name", "")


@st.composite
def rows(draw: st.DrawFn) -> tuple[str, str, str]:
    """An annotated utterance and an output that has something to do with it, or not."""
    chunks, plain = [], []
    for _ in range(draw(st.integers(1, 5))):
        words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))
        plain += words
        label = draw(st.sampled_from(("", "time", "date", "B-x")))
        chunks.append(f"[{label} : {' '.join(words)}]" if label else " ".join(words))
    part = st.builds(
        lambda label, value, colon: label + colon + " ".join(value),
        st.sampled_from(LABELS),
        st.lists(st.sampled_from(WORDS), max_size=3) | st.just(plain[:2]) | st.just(plain[-1:]),
        st.sampled_from((": ", ": ", ": ", ":", " ", ": b: ")),
    )
    output = st.lists(part, max_size=4).map("; ".join) | st.sampled_from(("None", " none", "", "; ;", "a; "))
    right = target(annotation.slots(" ".join(chunks)))
    return " ".join(plain), " ".join(chunks), draw(output | st.just(right) | st.just(right + "; date: x"))


@pytest.mark.parametrize(("language", "locale"), [("en", "en-US"), ("ja", "ja-JP"), ("zh_cn", "zh-CN")])
@pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning", "ignore:.*NE tag")
def test_reference_is_seqevals_micro_f1_of_the_published_procedure(language: str, locale: str) -> None:
    """Also shows that counts per item suffice: seqeval pools over the items, ours are summed."""

    @given(st.lists(rows(), min_size=1, max_size=5))
    def same(batch: list[tuple[str, str, str]]) -> None:
        f1 = ours(batch, language)["slot_f1_reference"]
        # seqeval has 0 where nothing is predicted and nothing is gold, which is no case here.
        assert np.nan_to_num(f1) == pytest.approx(original_f1(batch, locale))

    same()


# --- real rows ---


def damaged(slots: tuple[tuple[str, str], ...], utterance: str, chance: random.Random) -> str:
    """Outputs as models get them wrong: lost, invented, mislabelled, translated or cut slots."""
    kept = [(chance.choice(("time", label)), value) for label, value in slots if chance.random() < 0.8]
    if chance.random() < 0.3:
        kept.append(("date", chance.choice(utterance.split())))
    if chance.random() < 0.2:
        kept.append(("place_name", "somewhere else"))
    chance.shuffle(kept)
    text = target(kept)
    return text.upper() if chance.random() < 0.1 else text[:-2] if chance.random() < 0.1 else text


@pytest.mark.data
@pytest.mark.parametrize(
    ("language", "right"),
    [("en", 0.99), ("de", 0.99), ("sw", 0.99), ("am", 0.99), ("ja", 0.96), ("zh_cn", 0.96), ("zh_tw", 0.96)],
)
def test_reference_on_massive(massive_rows, language: str, right: float) -> None:
    """Right answers get nearly 1 (quirks cost the rest); both scorers agree on damaged ones too."""
    read = massive_rows(language, 2000)
    locale = languages()[language].codes["massive"]
    perfect = [(r["utt"], r["annot_utt"], target(annotation.slots(r["annot_utt"]))) for r in read]
    f1 = ours(perfect, language)["slot_f1_reference"]
    assert right < f1 <= 1
    assert f1 == pytest.approx(original_f1(perfect, locale))
    chance = random.Random(0)
    wrong = [(u, a, damaged(annotation.slots(a), u, chance)) for u, a, _ in perfect]
    f1 = ours(wrong, language)["slot_f1_reference"]
    assert 0.05 < f1 < 0.9
    assert f1 == pytest.approx(original_f1(wrong, locale))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::seqeval.metrics.v1.UndefinedMetricWarning")
def test_reference_of_damaged_answers_in_every_language(massive_rows) -> None:
    """10,400 of them, twenty at a time."""
    chance = random.Random(0)
    for code, row in languages().items():
        if not row.codes["massive"]:
            continue
        read = [(r["utt"], r["annot_utt"]) for r in massive_rows(code, 200)]
        wrong = [(u, a, damaged(annotation.slots(a), u, chance)) for u, a in read]
        for start in range(0, len(wrong), 20):
            batch = wrong[start : start + 20]
            theirs = original_f1(batch, row.codes["massive"])
            assert ours(batch, code)["slot_f1_reference"] == pytest.approx(theirs, rel=0, abs=1e-9), code


@pytest.mark.data
@pytest.mark.parametrize("language", ["en", "fr", "ar", "km", "ja", "zh_cn", "zh_tw"])
def test_every_target_of_massive_can_be_scored(massive_rows, language: str) -> None:
    """Right answers are right; the whole of MASSIVE was read once like this: 0 of 833,184 values fail."""
    for row in massive_rows(language, None):
        slots = annotation.slots(row["annot_utt"])
        assert parse_slots(target(slots)).pairs == slots
        assert parse_slots(target(slots)).well_formed
        assert all(len(BETWEEN_PAIRS.split(value)) == 1 for _, value in slots)
        source = fold(row["utt"], language)
        assert all(normalise(value, language) in source for _, value in slots)
        if language not in ("ja", "zh_cn", "zh_tw"):
            plain = re.sub(r"\[\S+ : (.+?)\]", r"\1", row["annot_utt"])
            assert plain.split() == row["utt"].split()  # so the reference's tokens can come from either


# --- the headline ---


def multiset_overlap(predicted: list[tuple[str, str]], gold: list[tuple[str, str]]) -> int:
    """True positives by hand: strike out one gold pair for each predicted one that equals it."""
    left, hits = list(gold), 0
    for pair in predicted:
        if pair in left:
            left.remove(pair)
            hits += 1
    return hits


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(("x", "y: z", "9:30", "É", "p  q"))), max_size=5
    ),
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(("X", "y: Z", "9:30", "é", "p q"))), max_size=5
    ),
)
def test_headline_is_a_multiset_overlap(
    gold: list[tuple[str, str]], predicted: list[tuple[str, str]]
) -> None:
    def folded(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(label, " ".join(value.lower().split())) for label, value in pairs]

    def unlabelled(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [("", value) for _, value in folded(pairs)]

    row = dict(zip(COLUMNS, count_slots(gold, target(predicted), "x", "x", "en"), strict=True))
    assert row["slot_tp"] == multiset_overlap(folded(predicted), folded(gold))
    assert row["value_tp"] == multiset_overlap(unlabelled(predicted), unlabelled(gold))
    assert row["label_tp"] == multiset_overlap([(a, "") for a, _ in predicted], [(a, "") for a, _ in gold])
    assert (row["slot_pred"], row["slot_gold"]) == (len(predicted), len(gold))
    assert row["exact"] == (sorted(folded(predicted)) == sorted(folded(gold)))
    assert row["well_formed"] == 1


def scores(gold: list[tuple[str, str]], output: str, utterance: str = "wake me at nine am") -> dict[str, int]:
    return dict(zip(COLUMNS, count_slots(gold, output, utterance, utterance, "en"), strict=True))


@pytest.mark.parametrize(
    ("output", "pred", "tp", "exact", "well_formed", "outside"),
    [
        ("time: nine am", 1, 1, 1, 1, 0),
        ("  time: NINE   AM ", 1, 1, 1, 1, 0),
        ("time:  nine am", 1, 1, 1, 0, 0),  # one blank too many
        ("time:nine am", 1, 1, 1, 0, 0),
        ("time: nine am;", 1, 1, 1, 0, 0),
        ("Time: nine am", 1, 0, 0, 1, 0),  # labels are exact
        ("time: nine", 1, 0, 0, 1, 0),
        ("time: nineam", 1, 0, 0, 1, 1),  # white space is folded, not removed
        ("time: nine am; time: nine am", 2, 1, 0, 1, 0),
        ("time: nine am; I hope this helps", 2, 1, 0, 0, 1),
        ("time: neuf heures", 1, 0, 0, 1, 1),
        ("wake me at nine am", 1, 0, 0, 0, 0),
        ("the slot is: nine am", 1, 0, 0, 0, 0),  # a label has no blank
        ("None", 0, 0, 0, 1, 0),
        ("", 0, 0, 0, 0, 0),
        (": nine am", 1, 0, 0, 0, 1),
        ("time: ", 1, 0, 0, 0, 1),
    ],
)
def test_one_output(output: str, pred: int, tp: int, exact: int, well_formed: int, outside: int) -> None:
    row = scores([("time", "nine am")], output)
    assert row["slot_pred"] == pred
    assert row["slot_tp"] == tp
    assert row["exact"] == exact
    assert row["well_formed"] == well_formed
    assert row["values_outside"] == outside
    assert (row["n"], row["slot_gold"]) == (1, 1)


@pytest.mark.parametrize(
    ("output", "exact"), [("None", 1), ("none", 1), ("", 0), (";", 0), ("time: nine", 0)]
)
def test_an_utterance_without_slots(output: str, exact: int) -> None:
    assert scores([], output)["exact"] == exact


def test_values_are_compared_after_unicode_normalisation() -> None:
    decomposed = unicodedata.normalize("NFD", "Café Straße")
    assert scores([("place", "café STRASSE")], f"place: {decomposed}", decomposed)["slot_tp"] == 1
    assert scores([("place", "café STRASSE")], f"place: {decomposed}", decomposed)["values_outside"] == 0
    # Folding before composing would turn the iota into a letter between the vowel and its accent.
    assert normalise("α\u0345\u0301", "de") == normalise("α\u0301\u0345", "de")


@pytest.mark.parametrize(
    ("output", "verbatim", "well_formed"),
    [
        ("time: nine; date: friday", 2, 1),
        ("time: Nine; date: friday", 1, 1),
        ("time: nine; date: friday.", 1, 1),
        ("time：nine；date：friday", 0, 0),
        ("time： nine； date： friday。", 0, 0),
        ("time: nine؛ date: friday", 0, 0),
        ("time: nine;date:friday", 0, 0),
        ("time: nine, date: friday", 0, 0),
        ("time：nine，date：friday", 0, 0),
    ],
)
def test_near_misses_are_right_and_the_strict_score_says_so(
    output: str, verbatim: int, well_formed: int
) -> None:
    row = scores([("time", "nine"), ("date", "friday")], output, "nine on friday")
    assert (row["slot_tp"], row["slot_pred"], row["exact"], row["values_outside"]) == (2, 2, 1, 0)
    assert (row["verbatim_tp"], row["well_formed"]) == (verbatim, well_formed)
    strict = METRICS["slot_f1_verbatim"](np.array(list(row.values())))
    assert float(strict) == verbatim / 2


@pytest.mark.parametrize("output", ["none.", "None。", " NONE ", "None"])
def test_none_with_a_full_stop_says_that_there_are_no_slots(output: str) -> None:
    row = scores([], output)
    assert (row["slot_pred"], row["exact"]) == (0, 1)
    assert row["well_formed"] == int(output.strip().casefold() == "none")


def test_a_comma_in_a_value_separates_nothing() -> None:
    for value in ("bonn, germany", "1,5", "the who, live: at leeds"):
        slots = [("place", value)]
        row = scores(slots, target(slots), value)
        assert row["slot_pred"] == 1 + (value == "the who, live: at leeds")


def test_a_value_may_hold_the_separator_of_labels() -> None:
    row = scores(
        [("song_name", "a: b"), ("time", "9:30")], "song_name: a: b; time: 9:30", "play a: b at 9:30"
    )
    assert (row["slot_tp"], row["exact"], row["well_formed"]) == (2, 1, 1)


def test_gibberish_costs_precision_like_a_wrong_pair() -> None:
    right = scores([("time", "nine am")], "time: nine am")
    babble = scores([("time", "nine am")], "time: nine am; well")
    wrong = scores([("time", "nine am")], "time: nine am; date: well")
    assert babble["slot_pred"] == wrong["slot_pred"] == right["slot_pred"] + 1


@given(st.text(), st.text(max_size=30))
def test_counts_of_anything_are_consistent(output: str, utterance: str) -> None:
    row = scores([("time", "nine am"), ("date", "friday")], output, utterance)
    assert 0 <= row["slot_tp"] <= min(row["slot_pred"], row["slot_gold"])
    assert row["slot_tp"] <= min(row["label_tp"], row["value_tp"])
    assert row["values_outside"] <= row["slot_pred"]
    pooled = np.array(list(row.values()))
    rates = [float(metric(pooled)) for metric in METRICS.values()]
    assert all(np.isnan(rate) or 0 <= rate <= 1 for rate in rates)


def test_metrics_broadcast_and_have_no_value_of_nothing() -> None:
    empty = np.zeros((3, 4, len(COLUMNS)), np.int64)
    for metric in METRICS.values():
        assert metric(empty).shape == (3, 4)
        assert np.isnan(metric(empty)).all()
    assert next(iter(METRICS)) == HEADLINE


# --- the quirks of the reference, one by one ---


def reference(annotated: str, output: str, language: str = "en") -> tuple[int, int, int]:
    plain = annotation.plain(annotated)
    row = dict(
        zip(
            COLUMNS, count_slots(annotation.slots(annotated), output, plain, annotated, language), strict=True
        )
    )
    return row["ref_tp"], row["ref_pred"], row["ref_gold"]


def test_quirks_of_the_reference() -> None:
    # Values that are not in the utterance are dropped, not counted.
    assert reference("wake me at [time : nine]", "time: nine; date: tomorrow") == (1, 1, 1)
    # Every occurrence is tagged; a later slot overwrites an earlier one.
    assert reference("[date : may] or may not", "date: may") == (1, 2, 1)
    assert reference("[date : may] flowers", "name: may; date: may") == (1, 1, 1)
    # Neighbours with one label merge, on both sides.
    assert reference("[date : may] [date : june]", "date: may; date: june") == (1, 1, 1)
    # A value with ": " inside is discarded.
    assert reference("play [song_name : a: b]", "song_name: a: b") == (0, 0, 1)
    # "Other" is no label.
    assert reference("play [song_name : b]", "Other: b") == (0, 0, 1)
    # Chinese and Japanese go by character, but ASCII chunks of the gold side stay whole, and do not close.
    assert reference("[date : 明日] の 天気", "date: 明日", "ja") == (1, 1, 1)
    assert reference("[app : abc] を開く", "app: abc", "ja") == (0, 0, 1)
    assert reference("[app : abc] を開く", "app: を開く", "ja") == (0, 1, 1)
    # Single ASCII characters do match, though the tag has leaked over the rest.
    assert reference("[n : 5] 時", "n: 5時", "ja") == (1, 1, 1)


# --- where points are lost ---

PAIRS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", "z"])), max_size=4)


@given(st.lists(st.tuples(PAIRS, PAIRS), min_size=1, max_size=6))
def test_losses_are_those_of_counting_by_hand(items: list[tuple[list, list]]) -> None:
    """Span errors: the largest number of gold labels that answers find, minus the pairs that are exact."""
    rows, missed, alarms, right, wrong_values = [], [], [], 0, 0
    for gold, answer in items:
        rows.append(count_slots(gold, target(answer), "x", "x", "en"))
        (missed if gold else alarms).append(not answer if gold else bool(answer))
        rest, labels = list(answer), []
        for pair in gold:  # exact pairs first
            if pair in rest:
                rest.remove(pair)
                right += 1
            else:
                labels.append(pair[0])
        for label in labels:  # then labels alone
            match = next((pair for pair in rest if pair[0] == label), None)
            if match:
                rest.remove(match)
                wrong_values += 1
    pooled = np.array(rows).sum(0)
    expected = {
        "missed": np.mean(missed) if missed else np.nan,
        "false_alarms": np.mean(alarms) if alarms else np.nan,
        "span_errors": wrong_values / (right + wrong_values) if right + wrong_values else np.nan,
    }
    found = {name: float(METRICS[name](pooled)) for name in expected}
    assert found == pytest.approx(expected, nan_ok=True)


def test_losses_need_no_columns_of_their_own() -> None:
    """Items of earlier records give the columns that this version counts."""
    rows = [
        count_slots(gold, output, "x", "x", "en")
        for gold in ([], [("a", "x")], [("a", "x"), ("b", "y")])
        for output in ("None", "", "a: x", "b: x; b: y", "nonsense")
    ]
    counts = np.array(rows)
    for name, derive in DERIVED.items():
        column = COLUMNS.index(name)
        without = counts.copy()
        without[:, column] = 0
        assert (derive(without) == counts[:, column]).all()
        assert 0 < counts[:, column].sum() < len(rows)


def test_right_answers_to_massive_overlap_entirely_in_every_language(massive_rows) -> None:
    for code in (code for code, row in languages().items() if row.codes["massive"]):
        read = [(r["utt"], r["annot_utt"]) for r in massive_rows(code, 60)]
        rows = [(u, a, target(annotation.slots(a))) for u, a in read]
        scores = ours(rows, code)
        assert scores["loose_f1"] == 1, code
        assert scores["missed"] == scores["span_errors"] == 0
