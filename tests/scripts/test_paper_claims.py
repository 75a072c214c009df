"""The page that compares the paper's claims with the committed records."""

import sys
from pathlib import Path

import pytest

from midalign.leaderboard.statistics import Estimate

SCRIPTS = Path(__file__).parents[2] / "scripts" / "experiments"


@pytest.fixture
def paper_claims(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import paper_claims

    yield paper_claims
    del sys.modules["paper_claims"]


@pytest.mark.parametrize(
    ("low", "high", "gain", "loss", "expected"),
    [
        (0.01, 0.03, 3.8, False, "reproduced"),
        (0.01, 0.03, None, False, "reproduced"),
        (-0.03, -0.01, -1.0, True, "reproduced"),
        (-0.03, -0.01, None, True, "reproduced"),
        (0.01, 0.03, None, True, "not reproduced"),
        (-0.03, -0.01, 3.8, False, "not reproduced"),
        (-0.03, -0.01, None, False, "not reproduced"),
        (-0.01, 0.02, 3.8, False, "not reproduced"),
        (-0.01, 0.05, 3.8, False, "undecided"),
        (-0.01, 0.02, None, False, "undecided"),
    ],
)
def test_verdict_follows_from_the_interval_and_the_claim(paper_claims, low, high, gain, loss, expected):
    estimate = Estimate((low + high) / 2, low, high, 0.01)
    assert paper_claims.verdict(estimate, gain, loss=loss) == expected


@pytest.mark.exhaustive
def test_page_is_what_the_committed_records_say(paper_claims):
    paper_claims.main("--check")
