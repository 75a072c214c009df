"""Translation metrics against sacreBLEU's own corpus scores, and the counts that it does not have."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from midalign.data import ntrex
from midalign.languages import language
from midalign.metrics import identify, translation
from midalign.metrics.identify import NOTHING, Identified, Wanted
from midalign.metrics.translation import (
    COLUMNS,
    METRICS,
    bleu,
    chrf,
    count_translation,
    in_language,
    signatures,
    tokenizer,
)

PLAIN = "13a"


def target(code: str) -> Wanted:
    row = language(code)
    return identify.wanted(code, row.script, row.identifier)


def counted(outputs: list[str], references: list[str], tokenize: str = PLAIN) -> np.ndarray:
    rows = [count_translation("", r, o, tokenize, NOTHING) for o, r in zip(outputs, references, strict=True)]
    return np.array(rows, np.int64)


def corrupted(text: str, chance: random.Random) -> str:
    """A prediction as models make them: cut, shuffled, with foreign characters, empty, or right."""
    characters, kind = list(text), chance.randrange(6)
    if kind == 0:
        return ""
    if kind == 1:
        return text[: chance.randrange(len(text) + 1)].strip()
    if kind == 2:
        words = text.split()
        chance.shuffle(words)
        return " ".join(words)
    for _ in range(chance.randrange(8)):
        characters[chance.randrange(len(characters))] = chance.choice(" ,.ab一あ한ก")
    return "".join(characters).strip()


TOKENIZERS = {"zh_cn": "zh", "zh_tw": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.data
def test_scores_of_corrupted_references_equal_sacrebleus(
    store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """13,808 of them in NTREX's 127 languages, each as a corpus of one, and a language's together."""
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(ntrex))
    chance = random.Random(0)
    total = 0
    for code in (direction.removeprefix("en-") for direction in ntrex.directions() if direction[:3] == "en-"):
        tokenize = TOKENIZERS.get(code, PLAIN)
        some = 500 if code in TOKENIZERS else 96
        references = [segment.target for segment in ntrex.read(f"en-{code}", "test")[:some]]
        outputs = [corrupted(reference, chance) for reference in references]
        counts = counted(outputs, references, tokenize)
        theirs_bleu, theirs_chrf = BLEU(tokenize=tokenize, force=True), CHRF(word_order=2)
        assert bleu(counts.sum(0)) == near(theirs_bleu.corpus_score(outputs, [references]).score), code
        assert chrf(counts.sum(0)) == near(theirs_chrf.corpus_score(outputs, [references]).score), code
        for row, output, reference in zip(counts, outputs, references, strict=True):
            assert bleu(row) == near(theirs_bleu.corpus_score([output], [[reference]]).score), code
            assert chrf(row) == near(theirs_chrf.corpus_score([output], [[reference]]).score), code
        total += len(outputs)
    assert total == 13_808


def near(score: float) -> Any:
    """Equal to 1e-9."""
    return pytest.approx(score, rel=0, abs=1e-9)


TEXT = st.text(st.sampled_from("ab .,\u3042\u4e00"), max_size=20)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_scores_of_any_text_equal_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    outputs, references = [output.strip() for output, _ in pairs], [reference for _, reference in pairs]
    pooled = counted(outputs, references).sum(0)
    theirs = BLEU(tokenize=PLAIN, force=True).corpus_score(outputs, [references])
    assert bleu(pooled) == pytest.approx(theirs.score, abs=1e-9)
    assert chrf(pooled) == pytest.approx(
        CHRF(word_order=2).corpus_score(outputs, [references]).score, abs=1e-9
    )


def test_metrics_take_draws_at_once() -> None:
    counts = counted(["a b c d e", "x", ""], ["a b c d e", "a b c d e", "a b"])
    draws = np.stack([counts[[0, 1, 2]].sum(0), counts[[0, 0, 0]].sum(0), counts[[1, 2, 2]].sum(0)])
    for metric in METRICS.values():
        assert metric(draws) == pytest.approx([float(metric(row)) for row in draws], nan_ok=True)


def test_a_right_output_has_a_hundred_and_an_empty_one_nothing() -> None:
    reference = "Der Hund schläft heute im Garten."
    right = counted([reference], [reference]).sum(0)
    assert (float(bleu(right)), float(chrf(right))) == (pytest.approx(100), pytest.approx(100))
    empty = counted([""], [reference]).sum(0)
    assert (float(bleu(empty)), float(chrf(empty))) == (0, 0)
    assert METRICS["empty"](empty) == 1
    assert METRICS["length_ratio"](empty) == 0


SIMPLIFIED = "部长星期二表示，谈判应该继续进行。"
TRADITIONAL = "部長星期二表示，談判應該繼續進行。"
SERBIAN = "Ministar je u utorak rekao da bi pregovori trebalo da se nastave."
SERBIAN_CYRILLIC = "Министар је у уторак рекао да би преговори требало да се наставе."
GERMAN = "Der Minister sagte am Dienstag, dass die Verhandlungen weitergehen sollten."
ENGLISH = "The minister said on Tuesday that the negotiations should continue."


@pytest.mark.parametrize(
    ("output", "reference", "code", "found"),
    [
        (GERMAN, GERMAN, "de", Identified.TARGET),
        (ENGLISH, GERMAN, "de", Identified.OTHER),
        (ENGLISH, GERMAN, "ak", Identified.UNSURE),  # one without references and label, in Latin script
        (ENGLISH, ENGLISH, "de", Identified.UNSURE),  # a reference that is not recognised
        ("", GERMAN, "de", Identified.UNSURE),
        ("123", GERMAN, "de", Identified.UNSURE),
        (SIMPLIFIED, TRADITIONAL, "zh_tw", Identified.OTHER),
        (TRADITIONAL, TRADITIONAL, "zh_tw", Identified.TARGET),
        (TRADITIONAL, SIMPLIFIED, "zh_cn", Identified.OTHER),
        (SERBIAN_CYRILLIC, SERBIAN, "sr_latn", Identified.OTHER),
        (SERBIAN, SERBIAN, "sr_latn", Identified.TARGET),
        (ENGLISH, SERBIAN, "sr_latn", Identified.OTHER),
        (ENGLISH, "ᱥᱟᱱᱛᱟᱲᱤ ᱯᱟᱹᱨᱥᱤ", "sat", Identified.OTHER),  # judged by its script alone
    ],
)
def test_off_target_is_held_against_an_output_only_where_it_can_be_told(
    output: str, reference: str, code: str, found: Identified
) -> None:
    row = dict(zip(COLUMNS, count_translation("source", reference, output, PLAIN, target(code)), strict=True))
    assert row["off_target"] == (found is Identified.OTHER)
    assert row["unidentified"] == (found is Identified.UNSURE)


def test_copies_are_told_but_for_case_and_blanks() -> None:
    german = target("de")
    row = dict(
        zip(COLUMNS, count_translation(ENGLISH, GERMAN, f" {ENGLISH.upper()} ", PLAIN, german), strict=True)
    )
    assert row["copied"] == 1
    assert dict(zip(COLUMNS, count_translation("", GERMAN, "", PLAIN, german), strict=True))["copied"] == 0


def test_off_target_divides_by_the_judged_outputs() -> None:
    outputs = [ENGLISH, GERMAN, "123", ""]
    counts = np.array([count_translation("", GERMAN, output, PLAIN, target("de")) for output in outputs])
    pooled = counts.sum(0)
    assert float(METRICS["off_target"](pooled)) == 1 / 2
    assert float(METRICS["unidentified"](pooled)) == 2 / 4
    assert np.isnan(METRICS["off_target"](counts[2:].sum(0)))


@pytest.mark.data
def test_references_are_on_target_and_english_is_not(
    store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of NTREX's languages, on references that the labels were not calibrated on (every fourth)."""
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(ntrex))
    for direction in (one for one in ntrex.directions() if one[:3] == "en-"):
        code = direction.removeprefix("en-")
        segments = ntrex.read(direction, "test")[1:400:4]
        begun = [(one.target, two_thirds(one.target)) for one in segments]
        assert off_target(begun, code) <= 0.04, code
        if not code.startswith("en_"):
            assert off_target([(one.target, one.source) for one in segments], code) >= 0.97, code
            known = [identify.identify(one.target, target(code)) for one in segments]
            assert known.count(Identified.TARGET) >= 0.85 * len(known), code


def off_target(pairs: list[tuple[str, str]], code: str) -> float:
    """Share of outputs that are held to be in another language, of (reference, output)."""
    verdicts = [in_language(output, reference, target(code)) for reference, output in pairs]
    return verdicts.count(Identified.OTHER) / (len(verdicts) - verdicts.count(Identified.UNSURE))


def two_thirds(text: str) -> str:
    """The beginning of a sentence, by words, or by characters where there are few blanks."""
    words = text.split()
    return " ".join(words[: round(2 * len(words) / 3)]) if len(words) > 3 else text[: 2 * len(text) // 3]


def test_tokenizers_by_target() -> None:
    assert tokenizer("de", "Latn") == "13a"
    assert tokenizer("zh_tw", "Hant") == tokenizer("zh", "Hans") == "zh"
    assert tokenizer("ja", "Jpan") == "ja-mecab"
    assert tokenizer("ko", "Kore") == "ko-mecab"


def test_without_its_tokenizer_a_target_has_no_bleu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "flores_model_is_here", lambda: False)
    assert tokenizer("th", "Thai") is None
    assert set(signatures(None)) == {"chrf"}
    thai = "รัฐมนตรีกล่าวเมื่อวันอังคาร"
    counts = np.array(count_translation("", thai, thai, None, target("th")))
    assert np.isnan(bleu(counts))
    assert float(chrf(counts)) == pytest.approx(100)
    monkeypatch.setattr(translation, "flores_model_is_here", lambda: True)
    assert tokenizer("th", "Thai") == "flores200"


def test_signatures_are_sacrebleus() -> None:
    outputs, references = ["a b c d"], [["a b c d"]]
    for tokenize in ("13a", "zh", "ja-mecab", "ko-mecab"):
        theirs_bleu, theirs_chrf = BLEU(tokenize=tokenize), CHRF(word_order=2)
        theirs_bleu.corpus_score(outputs, references)
        theirs_chrf.corpus_score(outputs, references)
        expected = {"bleu": str(theirs_bleu.get_signature()), "chrf": str(theirs_chrf.get_signature())}
        assert signatures(tokenize) == expected


def test_the_identifier_knows_its_languages() -> None:
    assert {"de", "sw", "zh", "tl"} <= identify.known()
