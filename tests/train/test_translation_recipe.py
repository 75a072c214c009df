"""Translation from recipe to board, through the front door: directions, their roles, no transfer gap."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from midalign import record

SMALL = [
    "mini",
    "task=midalign_mini_mt",
    "supervised=[es]",
    "aligned=[de]",
    "updates=2",
    "seeds=[1]",
    "samples_per_update=4",
    "align.pairs_per_update=4",
    "evaluation.languages=[es, de, fr]",
    "evaluation.limit=4",
]


def run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_recipe_to_board(tmp_path: Path) -> None:
    run("midalign.cli.train", *SMALL, f"output={tmp_path}")
    entry = record.read(tmp_path / "results" / "mini-aligned-seed1.json")
    directions = ("en-es", "es-en", "en-de", "de-en", "en-fr", "fr-en")
    assert set(entry.tasks) == {f"midalign_mini_mt_{direction}" for direction in directions}
    assert entry.roles == record.Roles(supervised=["es"], aligned=["de"], unseen=["fr"])
    assert entry.retrieval is not None
    assert set(entry.retrieval.accuracy) == {"es", "de", "fr"}

    board = tmp_path / "board"
    run("midalign.cli", "leaderboard", "build", "--results", tmp_path / "results", "--output", board)
    (section,) = json.loads((board / "leaderboard.json").read_text())["sections"]
    assert section["headline"] == "chrf"
    assert section["sets"]["aligned"] == ["de-en", "en-de"]
    assert section["sets"]["unseen"] == ["en-fr", "fr-en"]
    assert all(model["gap"] == {} for model in section["models"])
    page = (board / "README.md").read_text()
    assert "English to German `en-de`" in page
    assert "chrF++ by language" in page
