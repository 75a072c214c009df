"""The grammar of slot filling's answers: its language, by xgrammar's own matcher, against brute force."""

from functools import cache
from itertools import product

import pytest
import xgrammar
from hypothesis import given
from hypothesis import strategies as st

from midalign.data import massive, mini
from midalign.families import slot
from midalign.families.slot_grammar import build_slot_grammar, separable
from midalign.languages import languages
from midalign.metrics.folding import fold, normalise
from midalign.metrics.slot import parse_slots, target

TOKENS = xgrammar.TokenizerInfo(["</s>"], stop_token_ids=[0])
"""A language does not depend on the vocabulary: strings are matched byte by byte."""


@cache
def compiler() -> xgrammar.GrammarCompiler:
    return xgrammar.GrammarCompiler(TOKENS, max_threads=1, cache_enabled=False)


def accepts(compiled: xgrammar.CompiledGrammar, text: str) -> bool:
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
    return matcher.accept_string(text.encode()) and matcher.is_completed()


def language_of(utterance: str) -> xgrammar.CompiledGrammar:
    return compiler().compile_grammar(build_slot_grammar(utterance, ["a", "time_zone"], "de"))


def stretches(utterance: str) -> set[str]:
    """By definition: all that begins and ends in no white space and holds no separator."""
    size = len(utterance)
    every = {utterance[i:j] for i in range(size) for j in range(i + 1, size + 1)}
    return {text for text in every if text == text.strip() and not set(text) & set(";\n")}


@pytest.mark.parametrize(
    "utterance",
    ["abab", "a b", "  a b  ", "a;b", "a\nb", "a;", "; ;", "", " ", "aaaa", 'a"b', "a\\b", "ab:a", "a  b\ta"],
)
def test_values_are_the_stretches_of_the_utterance_and_nothing_else(utterance: str) -> None:
    compiled = language_of(utterance)
    letters = sorted({*utterance, "a", "b", " ", ";"})
    for size in range(len(utterance) + 2 if len(letters) < 6 else 5):
        for text in map("".join, product(letters, repeat=size)):
            assert accepts(compiled, f"a: {text}") == (text in stretches(utterance)), text
    assert accepts(compiled, "None")


@given(st.text('aé三 ;\n"\\\t\u3000\x7f😀', max_size=9), st.data())
def test_values_of_any_script_are_the_stretches(utterance: str, data: st.DataObject) -> None:
    compiled = language_of(utterance)
    values = stretches(utterance)
    for value in values:
        assert accepts(compiled, f"time_zone: {value}")
    other = data.draw(st.text('aé三 ;\n"\\\t\u3000\x7f😀', max_size=6))
    assert accepts(compiled, f"time_zone: {other}") == (other in values)


MARKS = (
    "ae \u0301\u0308\u0323\u1100\u1161\u11a8가각\u0915\u093c\u09c7\u09be\u0345ΐςıİßﬁ\u212b\u0e33\u0e4d\u0e49"
    "\u0e32\u0e40\u200d\u0d28\u0d4d\u0d7b\u0d31\u17d2\u178a\u05d0\u0585\u057e"
)


@given(st.text(MARKS, max_size=8))
def test_every_value_stands_in_the_utterance_as_the_score_looks_it_up(utterance: str) -> None:
    compiled = language_of(utterance)
    for value in stretches(utterance):
        if accepts(compiled, f"a: {value}"):
            assert normalise(value, "de") in fold(utterance, "de")


def test_a_letter_and_its_accent_are_not_split() -> None:
    compiled = language_of("cafe\u0301 ole")
    assert accepts(compiled, "a: cafe\u0301")
    assert not accepts(compiled, "a: cafe")
    assert not accepts(compiled, "a: \u0301 ole")
    assert [separable("\u1100\u1161\u11a8", place, "ko") for place in range(4)] == [True, False, False, True]


def test_the_format_is_the_targets() -> None:
    compiled = language_of("nine am on friday")
    for text in ("None", "a: nine am", "a: nine am; time_zone: friday", "a: nine am; a: nine am; a: nine am"):
        assert accepts(compiled, text)
        assert parse_slots(text).well_formed
    for text in (
        "",
        "none",
        "a:nine am",
        "a: ",
        "b: nine am",
        "a: nine am;a: on",
        "a: nine am; ",
        "None; a: on",
    ):
        assert not accepts(compiled, text), text


@given(st.lists(st.sampled_from(sorted(stretches("wake me; at nine: am  now"))), min_size=1, max_size=4))
def test_what_is_accepted_is_read_back(values: list[str]) -> None:
    pairs = tuple(("a", value) for value in values)
    assert accepts(language_of("wake me; at nine: am  now"), target(pairs))
    assert parse_slots(target(pairs)).pairs == pairs


def test_the_grammar_is_linear_in_the_utterance() -> None:
    short, long = (len(build_slot_grammar("ab " * n, ["a"], "de")) for n in (100, 800))
    assert long < 9 * short


def rejected(source: str, language: str, items: list) -> list[str]:
    metadata = {"source": source, "language": language}
    documents = [slot.slot_document(item, source, language) for item in items]
    return [
        one["target"]
        for one in documents
        if not accepts(compiler().compile_grammar(slot.constraint(one, metadata)), one["target"])
    ]


def mini_languages() -> list[str]:
    return [code for code, row in languages().items() if row.codes["mini"]]


@pytest.mark.parametrize("code", mini_languages())
def test_right_answers_of_the_mini_benchmark_are_accepted(code: str) -> None:
    assert rejected("mini", code, mini.items(code, "test")) == []


def massive_languages() -> list[str]:
    return [code for code, row in languages().items() if row.codes["massive"]]


@pytest.mark.exhaustive
@pytest.mark.data
@pytest.mark.slow
def test_right_answers_of_massive_are_accepted(massive_cache: None) -> None:
    """Every tenth test item of every locale."""
    for code in massive_languages():
        items = massive.items(code, "test")
        assert all(value in item.utterance for item in items for _, value in item.slots)
        assert rejected("massive", code, items[::10]) == []
