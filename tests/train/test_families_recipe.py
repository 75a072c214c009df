"""All families from recipe to board, through the front door, and what cannot be trained on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from midalign import record
from midalign.errors import RecipeError, TaskError
from midalign.harness import task_names, training_tasks
from midalign.train.recipe import load_recipe
from midalign.train.recipe_checks import check_roles

SMALL = [
    "mini",
    "task=midalign_mini",
    "supervised=[es]",
    "aligned=[de]",
    "updates=2",
    "seeds=[1]",
    "samples_per_update=4",
    "align.pairs_per_update=4",
    "evaluation.languages=[es, de, fr]",
    "evaluation.limit=4",
]


def run(module: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_from_recipe_to_board(tmp_path: Path) -> None:
    """Of translation the directions, their roles, no transfer gap; of JSON its layers of metrics."""
    done = run("midalign.cli.train", *SMALL, f"output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count("aligned minus baseline, ") == 3
    )  # once per family, and not by the evaluation too
    entry = record.read_record(tmp_path / "results" / "mini-aligned-seed1.json")
    directions = ("en-es", "es-en", "en-de", "de-en", "en-fr", "fr-en")
    of_family = {f"midalign_mini_json_{code}" for code in ("es", "de", "fr")}
    of_family |= {f"midalign_mini_mt_{direction}" for direction in directions}
    assert set(entry.tasks) == of_family | {f"midalign_mini_slot_{code}" for code in ("es", "de", "fr")}
    assert entry.roles == record.Roles(supervised=["es"], aligned=["de"], unseen=["fr"])
    assert entry.retrieval is not None
    assert set(entry.retrieval.accuracy) == {"es", "de", "fr"}
    metrics = entry.tasks["midalign_mini_json_es"].metrics
    assert next(iter(metrics)) == "span_f1"
    assert "intent_accuracy" in metrics
    assert "span_f1_seqeval" not in metrics

    board = tmp_path / "board"
    built = run("midalign.cli", "leaderboard", "build", "--results", tmp_path / "results", "--output", board)
    assert built.returncode == 0, built.stderr
    sections = json.loads((board / "leaderboard.json").read_text())["sections"]
    translation = next(section for section in sections if section["headline"] == "chrf")
    assert {section["headline"] for section in sections} == {"chrf", "slot_f1", "span_f1"}
    assert translation["sets"]["aligned"] == ["de-en", "en-de"]
    assert translation["sets"]["unseen"] == ["en-fr", "fr-en"]
    assert all(model["gap"] == {} for model in translation["models"])
    page = (board / "README.md").read_text()
    assert "| aligned − baseline | intent accuracy |" in page
    assert "English to German `en-de`" in page
    assert "chrF++ by direction" in page


def test_what_is_trained_on_has_a_training_split() -> None:
    group = "midalign_json_uner"
    assert task_names(group, ["pt", "zh"]) == [
        f"{group}_{treebank}" for treebank in ("pt_bosque", "pt_pud", "zh_gsd", "zh_pud")
    ]
    assert training_tasks(group, ["pt", "zh"]) == [f"{group}_pt_bosque", f"{group}_zh_gsd"]
    assert training_tasks("midalign_mini_json", ["ja"]) == ["midalign_mini_json_ja"]
    assert training_tasks("midalign_mini_mt", ["ja"]) == [
        "midalign_mini_mt_en-ja",
        "midalign_mini_mt_ja-en",
    ]
    with pytest.raises(RecipeError, match=r"no training data in 'de', only in da, hr, pt, qaf, sk, sr_latn"):
        training_tasks(group, ["zh", "de"])
    with pytest.raises(TaskError, match="no language 'fr'"):
        training_tasks(group, ["fr"])


def test_a_recipe_is_refused_before_anything_is_loaded() -> None:
    overrides = ["task=midalign_json_uner", "supervised=[en]", "aligned=[de]"]
    with pytest.raises(RecipeError, match="no training data in 'en'"):
        check_roles(load_recipe("mini", overrides))
    refused = run("midalign.cli.train", "mini", *overrides)
    assert refused.returncode != 0
    assert "midalign_json_uner has no training data in 'en', only in da" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
