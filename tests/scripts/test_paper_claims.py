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
    ("low", "high", "gain", "expected"),
    [
        (0.01, 0.03, 3.8, "reproduced"),
        (0.01, 0.03, None, "reproduced"),
        (-0.03, -0.01, -1.0, "reproduced"),
        (-0.03, -0.01, 3.8, "not reproduced"),
        (-0.03, -0.01, None, "not reproduced"),
        (-0.01, 0.02, 3.8, "not reproduced"),
        (-0.01, 0.05, 3.8, "undecided"),
        (-0.01, 0.02, None, "undecided"),
    ],
)
def test_verdict_follows_from_the_interval_and_the_paper_s_figure(paper_claims, low, high, gain, expected):
    assert paper_claims.verdict(Estimate((low + high) / 2, low, high, 0.01), gain) == expected


@pytest.mark.exhaustive
def test_page_is_what_the_committed_records_say(paper_claims):
    paper_claims.main("--check")
