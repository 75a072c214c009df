"""Lexicons: IBM Model 1 against its formula, phrase pairs against their definition, real pairs."""

import itertools
import random
from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from midalign.align import lexicon
from midalign.align.lexicon import LONGEST, bare_word, build_lexicon, split_phrases
from midalign.data.pairs import read_pairs


def translation_table(sentences, rounds=lexicon.ROUNDS):
    """Return t(target | source) by the loops of Brown et al., with an empty source word."""
    table = defaultdict(lambda: 1.0)
    for _ in range(rounds):
        counts, totals = defaultdict(float), defaultdict(float)
        for target, source in sentences:
            for t in target:
                whole = sum(table[t, s] for s in ["", *source])
                for s in ["", *source]:
                    counts[t, s] += table[t, s] / whole
                    totals[s] += table[t, s] / whole
        table = {pair: count / totals[pair[1]] for pair, count in counts.items()}
    return table


def test_link_probabilities_are_those_of_model_1():
    draw = random.Random(1)
    sentences = [
        ([draw.choice("abcde") for _ in range(4)], [draw.choice("vwxyz") for _ in range(5)])
        for _ in range(20)
    ]
    forward = translation_table(sentences)
    backward = translation_table([(english, foreign) for foreign, english in sentences])
    for (foreign, english), found in zip(sentences, lexicon._link_probabilities(sentences), strict=True):
        expected = [[forward[f, e] * backward[e, f] for e in english] for f in foreign]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@given(st.sets(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=6))
def test_phrase_pairs_are_all_consistent_ones_with_linked_ends(links):
    one_to_one = {f: e for f, e in sorted(links)}
    links = [(f, e) for e, f in {e: f for f, e in one_to_one.items()}.items()]
    expected = set()
    for first, last, start, end in itertools.product(range(6), range(6), range(5), range(5)):
        inside = [(f, e) for f, e in links if first <= e <= last]
        tight = {first, last} <= {e for _, e in inside} and {start, end} <= {f for f, _ in inside}
        consistent = all((first <= e <= last) == (start <= f <= end) for f, e in links)
        if 0 <= last - first < LONGEST and start <= end and tight and consistent:
            expected.add(((first, last), (start, end)))
    assert set(lexicon._phrase_pairs(links, 6)) == expected


def test_a_lexicon_of_real_pairs_has_the_translations():
    german, turkish, hindi = (build_lexicon(read_pairs("mini", code)) for code in ("de", "tr", "hi"))
    assert german[("tuesday",)] == "Dienstag"
    assert german[("half", "past", "six")] == "halb sieben"
    assert turkish[("milk",)] == "süt"
    assert hindi[("mumbai",)] == "मुंबई"
    assert all(len(phrase) <= LONGEST for phrase in german)


def test_languages_without_blanks_and_no_pairs_have_next_to_no_entries():
    assert len(build_lexicon(read_pairs("mini", "ja"))) < 20
    assert build_lexicon([]) == {}
    assert build_lexicon([("", "a b"), ("x", "")]) == {}


def test_bare_words_lose_outer_punctuation_alone():
    assert [*map(bare_word, ["«Hallo!»", "कि", "--", "don't"])] == ["Hallo", "कि", "", "don't"]


def test_the_longest_phrase_is_taken_and_punctuation_stays():
    entries = {("half", "past", "six"): "halb sieben", ("six",): "sechs", ("at",): "um"}
    phrases = [*split_phrases("At half past six, or 7?", entries)]
    assert [phrase.text for phrase in phrases] == ["At", "half past six,", "or", "7?"]
    assert [phrase.translation for phrase in phrases] == ["um", "halb sieben,", None, "7?"]
