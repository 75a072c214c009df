"""The published board is what its records give."""

import shutil
from pathlib import Path

import pytest

from midalign.leaderboard.build import build_board

BOARD = Path(__file__).parents[2] / "leaderboard"


@pytest.mark.slow
def test_the_board_is_not_stale(tmp_path: Path) -> None:
    shutil.copy(BOARD / "references.json", tmp_path)
    build_board(BOARD / "results", tmp_path)
    for name in ("README.md", "leaderboard.json"):
        stale = f"run: midalign leaderboard build --results {BOARD / 'results'} --output {BOARD}"
        assert (tmp_path / name).read_text() == (BOARD / name).read_text(), stale
    assert {path.name for path in tmp_path.glob("plots/*")} == {path.name for path in BOARD.glob("plots/*")}
