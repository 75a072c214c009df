"""Right answers score 1 in every form that a fair reader takes for the same answer, in every language."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from midalign.data import uner

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import check_answer_forms as forms  # noqa: E402


def wrong(source: str, every: int) -> list[str]:
    """Return the languages and forms of a data set that score below 1."""
    found = []
    for name, code, read in forms.documents():
        if name == source:
            docs = read()[::every]
            assert docs
            scores = {form: forms.score(name.split()[0], docs, form) for form in forms.FORMS}
            found += [f"{code} {form} {score:.4f}" for form, score in scores.items() if score < 1]
    return found


@pytest.mark.parametrize("source", ["slot mini", "structured mini"])
def test_right_answers_of_the_mini_benchmark_score_one_in_every_form(source: str) -> None:
    assert wrong(source, every=10) == []


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("source", ["slot massive", "structured massive"])
def test_right_answers_of_massive_score_one_in_every_form(massive_cache: None, source: str) -> None:
    """52 languages; `python scripts/check_answer_forms.py` reads every item."""
    assert wrong(source, every=40) == []


@pytest.mark.data
@pytest.mark.slow
def test_right_answers_of_uner_score_one_in_every_form(
    store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(uner))
    assert wrong("structured uner", every=10) == []


@pytest.mark.parametrize(
    ("language", "text", "capitals", "initials"),
    [
        ("tr", "iki ışık", "İKİ IŞIK", "İki Işık"),
        ("az", "bakı", "BAKI", "Bakı"),
        ("el", "αθήνα έλα", "ΑΘΗΝΑ ΕΛΑ", "Αθήνα Έλα"),
        ("hy", "և եվա", "ԵՎ ԵՎԱ", "Եվ Եվա"),
        ("de", "große", "GROSSE", "Große"),
    ],
)
def test_capitals_are_the_languages_own(language: str, text: str, capitals: str, initials: str) -> None:
    """As CLDR's special casing has them."""
    assert forms.capitals(text, language) == capitals
    assert forms.FORMS["initials"](text, language) == initials
