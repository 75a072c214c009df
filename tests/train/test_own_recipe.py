"""A user's own file from recipe to board, with the commands that the README names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from midalign import record
from midalign.data import mini

RECIPE = """
name: mine
base: mini
task: slot:data/my.jsonl
supervised: [es]
aligned: [de]
align: {pairs: "data/{language}.tsv", pairs_per_update: 2}
updates: 1
samples_per_update: 2
evaluation: {languages: [es, de], limit: 3}
"""


@pytest.mark.slow
def test_from_recipe_to_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data").mkdir()
    rows = [
        {
            "language": language,
            "split": split,
            "utterance": item.utterance,
            "slots": [{"slot": slot, "value": value} for slot, value in item.slots],
        }
        for language, split in (("es", "train"), ("es", "test"), ("de", "test"), ("fr", "test"))
        for item in mini.items(language, split)[:8]
    ]
    (tmp_path / "data" / "my.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (tmp_path / "data" / "de.tsv").write_text("Guten Abend\tGood evening\nBis gleich\tSee you soon\n")
    (tmp_path / "mine.yaml").write_text(RECIPE)

    def midalign(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "midalign", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    done = midalign("train", "mine.yaml")
    assert done.returncode == 0, done.stderr
    results = tmp_path / "runs" / "mine" / "results"
    entry = record.read_record(results / "mine-aligned-seed1.json")
    (es, de) = entry.tasks
    assert es.startswith("own_slot_my_")
    assert de == f"{es.removesuffix('_es')}_de"
    assert (entry.roles.supervised, entry.roles.aligned, entry.roles.unseen) == (["es"], ["de"], [])
    assert {task.n for task in entry.tasks.values()} == {3}
    assert str(tmp_path) not in (results / "mine-aligned-seed1.json").read_text()

    board = midalign("leaderboard", "build", "--results", str(results), "--output", "board")
    assert f"{es.removesuffix('_es')}, mini" in board.stdout, board.stderr

    answers = (json.dumps({"doc_id": i, "output": "None"}) + "\n" for i in range(8))
    (tmp_path / "answers.jsonl").write_text("".join(answers))
    scored = midalign("score", "--task", de, "--outputs", "answers.jsonl")
    assert "slot_f1 " in scored.stdout, scored.stderr
