"""xSID's strict and loose F1 against its scorer, written down again; where answers stand."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midalign.languages import languages
from midalign.metrics import slot
from midalign.metrics.slot import target
from midalign.metrics.slot_spans import COLUMNS, HEADLINE, METRICS, count_spans
from midalign.metrics.span_places import UNSPACED as UNSPACED_LANGUAGES
from midalign.metrics.span_places import located

# --- the published scorer, from its description: tags in, no spans of ours ---


def noted(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """A span begins at B and goes on while tags are I; its end is the tag that stops it, or the last one."""
    found = set()
    for begin, tag in enumerate(tags):
        if tag.startswith("B"):
            stops = [i for i in range(begin + 1, len(tags)) if not tags[i].startswith("I")]
            found.add((tag[2:], begin, stops[0] if stops else len(tags) - 1))
    return found


def partly(some: set[tuple[str, int, int]], others: set[tuple[str, int, int]]) -> int:
    """Spans of `some` within which one of `others` with their label begins or ends."""
    return sum(
        any(
            name == label and (b in range(begin, end + 1) or e in range(begin, end + 1))
            for name, b, e in others
        )
        for label, begin, end in some
    )


def f1(precise: int, predicted: int, recalled: int, gold: int) -> float:
    precision, recall = precise / predicted if predicted else 0, recalled / gold if gold else 0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def original(sentences: Sequence[tuple[Sequence[str], Sequence[str]]]) -> tuple[float, float]:
    """(strict, loose) F1 of (gold tags, predicted tags)."""
    spans = [(noted(gold), noted(predicted)) for gold, predicted in sentences]
    sizes = sum(len(gold) for gold, _ in spans), sum(len(predicted) for _, predicted in spans)
    both = sum(len(gold & predicted) for gold, predicted in spans)
    precise = sum(partly(predicted, gold) for gold, predicted in spans)
    recalled = sum(partly(gold, predicted) for gold, predicted in spans)
    return f1(both, sizes[1], both, sizes[0]), f1(precise, sizes[1], recalled, sizes[0])


# --- random sentences in which every word stands once ---

LETTERS = {
    "Latn": "abcdefghijklmnopqrstuvwxyzåæøßłđ",
    "Cyrl": "абвгдежзиклмнопрстуфхцчшщъыьэюя",
    "Grek": "αβγδεζηθικλμνξοπρτυφχψω",
    "Armn": "աբգդեզէըթժիլխծկհձղճմյնշոչպջռսվտ",
    "Geor": "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხ",
    "Arab": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "Hebr": "אבגדהוזחטיכלמנסעפצקרשת",
    "Deva": "अआइईउऊएऐओऔकखगघचछजझटठडढतथदधनपफबभम",
    "Beng": "অআইঈউঊএঐওঔকখগঘচছজঝটঠডঢতথদধনপফব",
    "Taml": "அஆஇஈஉஊஎஏஐஒஓகஙசஞடணதநனபமயரலவழளற",
    "Telu": "అఆఇఈఉఊఎఏఐఒఓకఖగఘచఛజఝటఠడఢతథదధ",
    "Knda": "ಅಆಇಈಉಊಎಏಐಒಓಕಖಗಘಚಛಜಝಟಠಡಢತಥದಧ",
    "Mlym": "അആഇഈഉഊഎഏഐഒഓകഖഗഘചഛജഝടഠഡഢതഥദധ",
    "Thai": "กขคฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภ",
    "Khmr": "កខគឃងចឆជឈញដឋឌឍណតថទធនបផពភមយរលវស",
    "Mymr": "ကခဂဃငစဆဇဈညဋဌဍဎဏတထဒဓနပဖဗဘမယရလဝသ",
    "Ethi": "ሀለሐመሠረሰሸቀበተቸኀነኘአከኸወዐዘዠየደጀገጠጨጰጸ",
    "Hans": "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁",
    "Jpan": "いろはにほへとちりぬるをわかよたれそつねなら明日東京七時晴",
    "Kore": "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허",
}
UNSPACED = ("Hans", "Jpan", "Thai", "Khmr", "Mymr")
LABELS = ("datetime", "location", "alarm/alarm_modifier", "reminder/todo")


def tags(spans: Sequence[tuple[str, int, int]], words: int) -> list[str]:
    found = ["O"] * words
    for label, start, end in spans:
        found[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return found


def sentence(script: str, chance: random.Random) -> tuple[list[str], list[tuple[str, int, int]]]:
    letters = chance.sample(LETTERS[script], len(LETTERS[script]))
    words = []
    for _ in range(chance.randint(1, 10)):
        size = chance.randint(1, 2)
        words.append("".join(letters.pop() for _ in range(size)))
    return words, cut(len(words), chance)


def cut(words: int, chance: random.Random) -> list[tuple[str, int, int]]:
    """Spans that do not overlap."""
    spans, at = [], 0
    while at < words:
        end = min(words, at + chance.randint(1, 4))
        if chance.random() < 0.5:
            spans.append((chance.choice(LABELS), at, end))
        at = end
    return spans


def corrupted(
    spans: Sequence[tuple[str, int, int]], words: int, chance: random.Random
) -> list[tuple[str, int, int]]:
    """Lost, relabelled, cut, grown and invented spans that do not overlap."""
    wrong: list[tuple[str, int, int]] = []
    for label, start, end in [*spans, *(cut(words, chance) if chance.random() < 0.3 else [])]:
        if chance.random() < 0.2:
            continue
        if chance.random() < 0.2:
            label = chance.choice(LABELS)
        if chance.random() < 0.4:
            start += chance.randint(-1, 1)
            end += chance.randint(-1, 1)
        start, end = max(0, start), min(words, end)
        if start < end and all(end <= other or start >= after for _, other, after in wrong):
            wrong.append((label, start, end))
    return wrong


def ours(rows: Sequence[list[int]]) -> tuple[float, float]:
    pooled = np.array(rows).sum(0)
    return float(METRICS["strict_f1"](pooled)), float(METRICS["loose_f1"](pooled))


def scored(
    words: Sequence[str], gold: Sequence[tuple[str, int, int]], output: str, blank: str = " "
) -> list[int]:
    pairs = [(label, blank.join(words[start:end])) for label, start, end in gold]
    return count_spans(pairs, output, blank.join(words), words, gold, "de")


@pytest.mark.parametrize("script", LETTERS)
def test_strict_and_loose_are_the_originals_on_corrupted_answers(script: str) -> None:
    """600 a script, 12,000 in all: tags are corrupted, written as an answer, and found again."""
    chance, blank = random.Random(script), "" if script in UNSPACED else " "
    rows, sentences = [], []
    for _ in range(600):
        words, gold = sentence(script, chance)
        wrong = corrupted(gold, len(words), chance)
        order = sorted(wrong, key=lambda span: span[1]) if chance.random() < 0.8 else wrong
        output = target([(label, blank.join(words[start:end])) for label, start, end in order])
        row = scored(words, gold, output, blank)
        both = tags(gold, len(words)), tags(wrong, len(words))
        # The original has 0 where there is no case.
        assert np.nan_to_num(ours([row])) == pytest.approx(original([both]), abs=1e-9)
        if chance.random() < 0.2:  # an invented value is a predicted span that nothing matches
            row = scored(words, gold, f"{output}; datetime: {LETTERS[script]}", blank)
            if output == "None":
                row = scored(words, gold, f"datetime: {LETTERS[script]}", blank)
            sentences.append((["O"], ["B-datetime"]))
        rows.append(row)
        sentences.append(both)
    assert ours(rows) == pytest.approx(original(sentences), abs=1e-9)
    assert 0.3 < ours(rows)[0] < ours(rows)[1] < 0.95


@pytest.mark.parametrize(("script", "language"), [("Latn", "de"), ("Hans", "zh_cn"), ("Thai", "th")])
def test_loose_of_annotated_utterances_is_the_originals(script: str, language: str) -> None:
    """MASSIVE's spans are made of words, or of characters where words are not set apart."""
    chance, blank = random.Random(script), "" if script in UNSPACED else " "
    rows, sentences = [], []
    for _ in range(200):
        words, gold = sentence(script, chance)
        wrong = corrupted(gold, len(words), chance)
        sizes = [len(word) if script in UNSPACED else 1 for word in words]
        starts = np.cumsum([0, *sizes]).tolist()
        both = [
            tags([(label, starts[a], starts[b]) for label, a, b in spans], starts[-1])
            for spans in (gold, wrong)
        ]
        pairs = [(label, blank.join(words[start:end])) for label, start, end in gold]
        answer = target([(label, blank.join(words[start:end])) for label, start, end in wrong])
        pieces = list(words)
        for label, start, end in gold:
            pieces[start : end - 1] = [""] * (end - 1 - start)
            pieces[end - 1] = f"[{label} : {blank.join(words[start:end])}]"
        annotated = " ".join(piece for piece in pieces if piece)
        rows.append(slot.count_slots(pairs, answer, blank.join(words), annotated, language))
        sentences.append((both[0], both[1]))
    pooled = np.array(rows).sum(0)
    assert float(slot.METRICS["loose_f1"](pooled)) == pytest.approx(original(sentences)[1], abs=1e-9)
    assert 0.5 < original(sentences)[1] < 0.95


def test_languages_without_blanks_are_those_of_their_scripts() -> None:
    scripts = {"Hans", "Hant", "Jpan", "Khmr", "Laoo", "Mymr", "Thai"}
    assert list(UNSPACED_LANGUAGES) == [code for code, row in languages().items() if row.script in scripts]


# --- the place of an answer ---


@pytest.mark.parametrize(
    ("words", "gold", "output", "places"),
    [
        # where gold has it, though the words stand further left too
        ("book for one in one hour", [("n", 4, 5)], "n: one", [("n", 4, 5)]),
        # a label that gold has not there: leftmost
        ("book for one in one hour", [("n", 4, 5)], "m: one", [("m", 2, 3)]),
        # each mention one occurrence, in order; a third has no place
        ("one or one", [], "n: one; m: one; k: one", [("n", 0, 1), ("m", 2, 3), None]),
        # gold's own places are given away first
        ("one or two", [("m", 0, 1)], "n: one; m: one", [None, ("m", 0, 1)]),
        # taken words are not taken again
        ("at nine am", [], "time: nine am; time: nine", [("time", 1, 3), None]),
        # whole words only, in any case, however spaced
        ("at 9am today", [], "time: 9", [None]),
        ("At 9 AM today", [], "time: 9am", [("time", 1, 3)]),
        ("请 明天 早上 叫 我", [], "time: 明天早上", [("time", 1, 3)]),
        # not there at all, no label, and no pair
        ("at nine", [], "time: ten; nine; : nine", [None, None, None]),
    ],
)
def test_where_answers_stand(
    words: str,
    gold: list[tuple[str, int, int]],
    output: str,
    places: list[tuple[str, int, int] | None],
) -> None:
    from midalign.metrics.slot import parse_slots

    assert located(parse_slots(output).pairs, words.split(), gold, "de") == places
    row = dict(zip(COLUMNS, scored(words.split(), gold, output), strict=True))
    assert row["slot_pred"] == len(places)
    assert row["strict_tp"] == len({*gold} & {*places})


def test_answers_without_the_golds_blanks_are_right() -> None:
    """xSID's Japanese and Chinese golds have blanks between phrases, which the languages do not write."""
    words = ["明天", "早上 七点", "", "叫我", "。"]
    for value in ("明天早上 七点", "明天早上七点", "明天 早上 七点"):
        row = count_spans(
            [("time", "明天早上 七点")],
            f"time: {value}",
            "明天早上 七点 叫我。",
            words,
            [("time", 0, 2)],
            "zh",
        )
        assert row[COLUMNS.index("slot_tp")] == row[COLUMNS.index("strict_tp")] == 1
        assert row[COLUMNS.index("values_outside")] == 0


def test_capitals_and_full_stops_are_those_of_the_language() -> None:
    def strict(value: str, words: list[str], language: str) -> int:
        output, text = f"place: {value}", " ".join(words)
        row = count_spans([("place", text)], output, text, words, [("place", 0, len(words))], language)
        assert row[COLUMNS.index("slot_tp")] == row[COLUMNS.index("strict_tp")]
        return row[COLUMNS.index("slot_tp")]

    assert strict("İSTANBUL", ["istanbul"], "tr") == strict("Istanbul", ["istanbul"], "tr") == 1
    assert strict("ISIK", ["ışık"], "tr") == 0
    assert strict("nine a.m", ["nine", "a.m."], "en") == strict("nine a.m..", ["nine", "a.m."], "en") == 1


def test_empty_words_are_no_ends() -> None:
    assert located([("n", "8个")], ["预订", "", "8个"], [], "zh") == [("n", 2, 3)]
    assert located([("n", "预订8个")], ["预订", "", "8个"], [], "zh") == [("n", 0, 3)]


def test_quirks_of_the_original() -> None:
    """Kept, since figures are compared with its own."""

    def both(words: str, gold: list[tuple[str, int, int]], output: str) -> list[int]:
        row = dict(zip(COLUMNS, scored(words.split(), gold, output), strict=True))
        return [row["strict_tp"], row["loose_tp_pred"], row["loose_tp_gold"]]

    # The last two words look like the last but one.
    assert both("a b c", [("x", 1, 3)], "x: b") == [1, 1, 1]
    assert both("a b c d", [("x", 1, 3)], "x: b") == [0, 1, 1]
    # Neighbours touch.
    assert both("a b c d", [("x", 0, 1)], "x: b") == [0, 1, 1]
    assert both("a b c d", [("x", 0, 1)], "x: c") == [0, 0, 0]
    # What is inside touches what is around it, and is not touched.
    assert both("a b c d e", [("x", 0, 4)], "x: b") == [0, 0, 1]
    assert both("a b c d e", [("x", 1, 2)], "x: a b c d") == [0, 1, 0]


@given(st.text(max_size=60), st.lists(st.sampled_from(["a", "b", "", "c d", "é"]), min_size=1, max_size=6))
def test_counts_of_anything_are_consistent(output: str, words: list[str]) -> None:
    gold = [("time", 0, 1)] if words[0] else []
    row = dict(zip(COLUMNS, scored(words, gold, output), strict=True))
    assert row["strict_tp"] <= row["loose_tp_pred"] <= row["slot_pred"]
    assert row["loose_tp_gold"] <= row["slot_gold"] == len(gold)
    pooled = np.array(list(row.values()))
    rates = [float(metric(pooled)) for metric in METRICS.values()]
    assert all(np.isnan(rate) or 0 <= rate <= 1 for rate in rates)


def test_metrics_broadcast_and_have_no_value_of_nothing() -> None:
    empty = np.zeros((3, 4, len(COLUMNS)), np.int64)
    for metric in METRICS.values():
        assert metric(empty).shape == (3, 4)
        assert np.isnan(metric(empty)).all()
    assert next(iter(METRICS)) == HEADLINE
