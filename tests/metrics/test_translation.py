"""Translation metrics against sacreBLEU's own corpus scores, and the counts that it does not have."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from midalign.data import ntrex
from midalign.metrics import identify
from midalign.metrics.identify import Identified
from midalign.metrics.translation import COLUMNS, METRICS, bleu, chrf, count, signatures, tokenizer

PLAIN = "13a"


def counted(outputs: list[str], references: list[str], tokenize: str = PLAIN) -> np.ndarray:
    rows = [count("", r, o, tokenize, "") for o, r in zip(outputs, references, strict=True)]
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
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """13,808 of them in NTREX's 127 languages, each as a corpus of one, and a language's together."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))
    ntrex.add(shared_data / "ntrex" / "ntrex-128.tar.xz")
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
        assert metric(draws) == pytest.approx([float(metric(row)) for row in draws])


def test_a_right_output_has_a_hundred_and_an_empty_one_nothing() -> None:
    reference = "Der Hund schläft heute im Garten."
    right = counted([reference], [reference]).sum(0)
    assert (float(bleu(right)), float(chrf(right))) == (pytest.approx(100), pytest.approx(100))
    empty = counted([""], [reference]).sum(0)
    assert (float(bleu(empty)), float(chrf(empty))) == (0, 0)
    assert METRICS["empty"](empty) == 1
    assert METRICS["length_ratio"](empty) == 0


GERMAN = "Der Minister sagte am Dienstag, dass die Verhandlungen weitergehen sollten."
ENGLISH = "The minister said on Tuesday that the negotiations should continue."


@pytest.mark.parametrize(
    ("output", "reference", "identifier", "found"),
    [
        (GERMAN, GERMAN, "de", Identified.TARGET),
        (ENGLISH, GERMAN, "de", Identified.OTHER),
        (ENGLISH, GERMAN, "", Identified.UNSURE),  # a language that the identifier does not know
        (ENGLISH, ENGLISH, "de", Identified.UNSURE),  # a reference that it does not recognise
        ("", GERMAN, "de", Identified.UNSURE),
        ("123", GERMAN, "de", Identified.UNSURE),
    ],
)
def test_off_target_is_held_against_an_output_only_where_it_can_be_told(
    output: str, reference: str, identifier: str, found: Identified
) -> None:
    row = dict(zip(COLUMNS, count("source", reference, output, PLAIN, identifier), strict=True))
    assert row["off_target"] == (found is Identified.OTHER)
    assert row["unidentified"] == (found is Identified.UNSURE)


def test_copies_are_told_but_for_case_and_blanks() -> None:
    row = dict(zip(COLUMNS, count(ENGLISH, GERMAN, f" {ENGLISH.upper()} ", PLAIN, "de"), strict=True))
    assert row["copied"] == 1
    assert dict(zip(COLUMNS, count("", GERMAN, "", PLAIN, "de"), strict=True))["copied"] == 0


def test_tokenizers_by_target() -> None:
    assert tokenizer("de", "Latn") == "13a"
    assert tokenizer("zh_tw", "Hant") == tokenizer("zh", "Hans") == "zh"
    assert tokenizer("ja", "Jpan") == "ja-mecab"
    assert tokenizer("ko", "Kore") == "ko-mecab"
    assert tokenizer("th", "Thai") in ("13a", "flores200")


def test_signatures_are_sacrebleus() -> None:
    found = signatures("ja-mecab")
    assert "tok:ja-mecab" in found["bleu"]
    assert "nw:2" in found["chrf"]


def test_the_identifier_knows_its_languages() -> None:
    assert {"de", "sw", "zh", "tl"} <= identify.known()
