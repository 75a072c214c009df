"""Overlap against brute force on strings and sets, and the rule's edges."""

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from midalign.data import overlap
from midalign.data.overlap import (
    CONTAINED,
    NEAR,
    SHINGLE,
    SHORT,
    SplitText,
    find_overlaps,
    fold_orthography,
    repeated,
)

SENTENCE = (
    "The quick brown fox jumps over the lazy dog, and nobody in the village has ever seen it come back."
)


def caseless(text):
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def widened(text):
    letters = [c for c in text if unicodedata.category(c)[0] in ("L", "M", "N")]
    return "".join(2 * c if unicodedata.east_asian_width(c) in ("W", "F") else c for c in letters)


def normalised(text):
    return widened(caseless(text))


def folded(text):
    return widened(fold_orthography(caseless(text)))


def shingles(text):
    whole = folded(text)
    return [whole[i : i + SHINGLE] for i in range(len(whole) - SHINGLE + 1)]


def brute_force(training, test):
    """(exact, folded, short, near) of the test sentences."""
    whole = {normalised(text) for text in training} - {""}
    whole_folded = {folded(text) for text in training} - {""}
    parts = {part for text in training for part in shingles(text)}
    exact = [text for text in test if normalised(text) in whole and folded(text)]
    respelt = [text for text in test if normalised(text) not in whole and folded(text) in whole_folded]
    short = [text for text in (*exact, *respelt) if len(folded(text)) < SHORT]
    near = [
        text
        for text in test
        if folded(text) not in whole_folded
        and len(folded(text)) >= NEAR
        and sum(part in parts for part in shingles(text)) / len(shingles(text)) >= CONTAINED
    ]
    return len(exact), len(respelt), len(short), len(near)


def found(training, test):
    both = find_overlaps([SplitText("a", "train", "en", training)], [SplitText("b", "test", "de", test)])
    return (both[0].exact, both[0].folded, both[0].short, both[0].near) if both else (0, 0, 0, 0)


WORDS = [
    "the",
    "Quick",
    "ｂrown",
    "fox!",
    "Straße",
    "STRASSE",
    "मौसम",
    "कैसा",
    "天気は",
    "天氣",
    "İstanbul",
    "٣",
]
WORDS += [
    "e\u0301",
    "é",
    "🎉",
    "ﬁ",
    "किताब",
    "ถนน",
    "oʻz",
    "o'z",
    "علی",
    "على",
    "ताज़ा",
    "ताजा",
    "\n",
    "\t",
    "\u0301",
    "\u200d",
    "한국어",
]
sentences = st.lists(
    st.one_of(st.lists(st.sampled_from(WORDS), max_size=24).map(" ".join), st.text(max_size=60)), max_size=12
)


@settings(max_examples=300, deadline=None)
@given(sentences, sentences, st.randoms(use_true_random=False))
@example([""], ["", "!", "\n"], None)
@example(["\u0301abc"], ["\u0301abc", "abc"], None)
def test_as_by_brute_force(training, test, random):
    if random:  # test sentences with a word changed, cut, or two training sentences joined
        for text in training:
            words = text.split(" ")
            words[random.randrange(len(words))] = random.choice(WORDS)
            test = [*test, " ".join(words), text[: len(text) * 3 // 4], text + random.choice(training)]
    assert found(training, test) == brute_force(training, test)


@pytest.mark.parametrize(
    ("training", "test"),
    [
        (SENTENCE, SENTENCE.upper().replace(" ", "  ")),
        ("Das ist ein sehr großer Strauß von Blumen", "das ist ein SEHR GROSSER STRAUSS von Blumen!"),
        (
            "Ｆｕｌｌ ｗｉｄｔｈ ａｎｄ ｈａｌｆ ａｒｅ ｔｈｅ ｓａｍｅ ｔｅｘｔ ｈｅｒｅ",
            "full width and half are the same text here",
        ),
        ("会议将于明天上午九点在市中心的大楼里举行", "会议将于明天上午九点，在市中心的大楼里举行。"),
    ],
)
def test_equal_texts_whatever_their_spelling(training, test):
    assert found([training], [test]) == (1, 0, 0, 0)


@pytest.mark.parametrize(
    ("training", "test"),
    [
        ("oʻzbekcha soʻz", "o'zbekcha so'z"),  # U+02BB, which the Uzbek standard has, and apostrophes
        ("oʻzbekcha soʻz", "o‘zbekcha so‘z"),
        ("moʼjiza", "mo'jiza"),
        ("یک کتاب", "يك كتاب"),  # Persian and Arabic keyboards
        ("علی", "على"),
        ("هذا الأسبوع", "هذا الاسبوع"),
        ("كِتَابٌ", "كتاب"),
        ("كتـــاب", "كتاب"),
        ("ایک نئی فہرست", "ایک نئی فھرست"),
        ("שָׁלוֹם עוֹלָם", "שלום עולם"),
        ("İstanbul", "istanbul"),
        ("ışık", "IŞIK"),  # Turkish capitals
        ("ISPARTA", "ısparta"),
        ("porneşte", "pornește"),  # s with cedilla, and with comma
        ("porneşte", "porneste"),
        ("στείλε άλλαξε", "ΣΤΕΙΛΕ ΑΛΛΑΞΕ"),
        ("календарём", "календарем"),
        ("ताज़ा ख़बर", "ताजा खबर"),
        ("हूँ", "हूं"),
        ("പേര്‍", "പേർ"),
        ("เเมว", "แมว"),
        ("ប្រចាំសប្តាហ៍", "ប្រចាំសប្ដាហ៍"),
        ("২০২৪", "2024"),
        ("٢٠٢٤", "۲۰۲۴"),
        ("đường", "duong"),
        ("Ցտեսություն և", "ՑՏԵՍՈՒԹՅՈՒՆ ԵՎ"),
        ("❤\ufe0fa\u200cb", "❤ab"),
    ],
)
def test_the_same_text_in_another_spelling(training, test):
    assert found([training], [test]) == (0, 1, 1, 0)
    assert found([test], [training]) == (0, 1, 1, 0)


def test_marks_tell_words_apart():
    """Without its vowel signs, another word of Hindi would remain."""
    assert found(["की" * 20], ["कि" * 20]) == (0, 0, 0, 0)
    assert found(["กา" * 20], ["กี" * 20]) == (0, 0, 0, 0)
    assert found(["が" * 20], ["か" * 20]) == (0, 0, 0, 0)
    assert found(["한" * 20], ["하" * 20]) == (0, 0, 0, 0)


def test_near_texts_are_found_in_another_spelling():
    """Of 12 words, the last is another one, and all are written without accents."""
    training = "Programează-mi pentru mâine dimineață o întâlnire cu Ștefan și Ioana în București lângă gară"
    test = "programeaza-mi pentru maine dimineata o intalnire cu Stefan si Ioana in Bucuresti langa teatru"
    assert found([training], [test]) == (0, 0, 0, 1)


def test_a_test_text_may_stand_in_several_sentences():
    half = len(SENTENCE) // 2
    assert found([SENTENCE[:half] + "xx", SENTENCE[half:]], [SENTENCE]) == (0, 0, 0, 1)


def test_short_texts_count_where_they_are_common():
    training = [f"short text {i}" for i in range(100)]

    def counted(equal, others):
        test = training[:equal] + [f"{SENTENCE} {i}" for i in range(others)]
        (one,) = find_overlaps(
            [SplitText("a", "train", "en", training)], [SplitText("b", "test", "en", test)]
        )
        assert (one.exact, one.short) == (equal, equal)
        return one.found

    assert counted(5, 95) == 0
    assert counted(6, 94) == 6
    (one,) = find_overlaps(
        [SplitText("a", "train", "en", [*training, SENTENCE])],
        [SplitText("b", "test", "en", ["short text 1", *[SENTENCE] * 99])],
    )
    assert (one.exact, one.short, one.found) == (100, 1, 99)


def test_splits_of_one_data_set_are_not_compared_and_a_split_with_itself_is():
    test = SplitText("a", "test", "en", [SENTENCE])
    assert find_overlaps([SplitText("a", "train", "en", [SENTENCE])], [test]) == []
    assert [one.found for one in find_overlaps([test], [test])] == [1]
    both = [SplitText("a", "train", "en", [SENTENCE]), SplitText("b", "train", "fr", [SENTENCE]), test]
    assert [(one.training, one.found) for one in find_overlaps(both, [test])] == [("b", 1), ("a", 1)]


def test_examples_name_the_text_and_where_it_stands():
    near = SENTENCE.replace("come back", "again")
    training = ["something else entirely, of which the test knows nothing at all", SENTENCE]
    (one,) = find_overlaps(
        [SplitText("a", "train", "en", training)],
        [SplitText("b", "test", "en", ["nothing of it", near, SENTENCE])],
    )
    exact, doubtful = one.examples
    assert (exact.item, exact.text, exact.training, exact.contained) == (2, SENTENCE, SENTENCE, 1.0)
    assert (doubtful.item, doubtful.text, doubtful.training) == (1, near, SENTENCE)
    held = sum(part in shingles(SENTENCE) for part in shingles(near)) / len(shingles(near))
    assert doubtful.contained == pytest.approx(held, abs=1e-3)
    assert one.figures().examples == ()


def test_no_sentences_at_all():
    nothing = SplitText("a", "train", "en", [])
    assert find_overlaps([nothing], [SplitText("b", "test", "en", [SENTENCE])]) == []
    assert find_overlaps([SplitText("b", "train", "en", [SENTENCE])], [nothing]) == []
    assert find_overlaps([], [nothing]) == []


def test_hashes_of_different_stretches_differ():
    prints = overlap.fingerprints([f"{i:024d}" for i in range(50_000)])
    stretches = {f"{i:024d}"[k : k + SHINGLE] for i in range(50_000) for k in range(9)}
    assert len(set(prints.shingles.tolist())) == len(stretches)
    assert len(set(prints.whole.tolist())) == 50_000


def test_repeated_is_word_for_word_and_by_language():
    training = [SplitText("a", "train", "en", ["wake me", "stop"]), SplitText("a", "train", "de", ["Halt"])]
    assert repeated(SplitText("a", "test", "en", ["stop", "Stop", "Halt", "wake me"]), training) == [0, 3]
