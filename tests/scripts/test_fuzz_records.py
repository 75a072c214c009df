"""A few mutations of scripts/checks/fuzz_records.py, which makes 2,000. It fails where a check is missing."""

import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "checks"))

import fuzz_records  # noqa: E402


@pytest.mark.filterwarnings("ignore:Glyph")
def test_mutated_records_are_accepted_or_rejected_with_a_reason():
    problems, outcomes = fuzz_records.fuzz(60, seed=3)
    assert problems == []
    assert sum(outcomes.values()) == 60
    assert {kind.split()[1] for kind in outcomes} == {"accepted", "rejected"}


def test_the_fuzzer_sees_raw_markup_and_tracebacks(monkeypatch):
    assert fuzz_records.foreign_markup(f"{fuzz_records.MARK}\n# Leaderboard\n\n<script>\n")
    assert fuzz_records.foreign_markup(f"{fuzz_records.MARK}\n# Leaderboard\n\n- a [b](https://c.d)\n")
    assert fuzz_records.foreign_markup(f"{fuzz_records.MARK}\n# Leaderboard\n\n- a [b](#c)\n")
    assert not fuzz_records.foreign_markup(f"{fuzz_records.MARK}\n# Leaderboard\n\n- `a` **b** \\<c\n")

    def fail(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(fuzz_records, "judge", fail)
    assert "ValueError" in fuzz_records.fuzz(1, seed=0)[0][0]


def test_a_mutation_is_the_same_for_a_seed():
    def files() -> tuple[bytes, bytes]:
        record, packed = fuzz_records.trimmed("mini-aligned-seed1")
        _, written, items = fuzz_records.mutate(record, packed, random.Random("0 1"))
        return written, items

    assert files() == files()
