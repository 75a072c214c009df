"""Pairs that hold test sentences: the run is stopped with examples, or goes on and says so to the end."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from midalign import adapter, record
from midalign.data import mini
from midalign.errors import OverlapError
from midalign.train import run
from midalign.train.recipe import load_recipe, shipped_recipes
from midalign.train.run import evaluation_overlaps, train_recipe

SMALL = [
    "mini",
    "supervised=[es]",
    "aligned=[de]",
    "updates=1",
    "seeds=[1]",
    "samples_per_update=2",
    "align.pairs_per_update=2",
    "evaluation.languages=[es, de]",
    "evaluation.limit=4",
]


def start(module: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def stolen(tmp_path: Path) -> str:
    """Pairs of German whose English side is the test split's."""
    english = [item.utterance for item in mini.items("en", "test")]
    german = [item.utterance for item in mini.items("de", "train")]
    lines = (f"{de}\t{en}\n" for de, en in zip(german, english, strict=False))
    (tmp_path / "de.tsv").write_text("".join(lines), "utf-8")
    return f"align.pairs={tmp_path}/{{language}}.tsv"


def test_a_run_is_stopped_before_training(stolen: str, tmp_path: Path) -> None:
    task = ["task=midalign_mini_mt", "evaluation.languages=[de]"]
    done = start("midalign.cli.train", *SMALL, *task, stolen, f"output={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "the training text contains evaluation text" in done.stderr
    assert "300 of 300 texts of mini test, en (midalign_mini_mt_de-en and 1 more)" in done.stderr
    assert any(item.utterance in done.stderr for item in mini.items("en", "test"))
    assert "allow_overlap=true" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 24
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
@pytest.mark.slow
def test_what_is_allowed_is_told_to_the_end(stolen: str, tmp_path: Path) -> None:
    task = ["task=midalign_mini_mt"]
    done = start("midalign.cli.train", *SMALL, *task, stolen, f"output={tmp_path / 'run'}", "--allow-overlap")
    assert done.returncode == 0, done.stderr
    manifests = {
        arm: adapter.read_manifest(tmp_path / "run" / "adapters" / f"{arm}-seed1")
        for arm in ("baseline", "aligned")
    }
    assert manifests["baseline"].overlap == []
    (english,) = (one for one in manifests["aligned"].overlap if one.language == "en")
    assert (english.test, english.split, english.exact, english.texts) == ("mini", "test", 300, 300)
    assert english.examples == ()
    written = record.read_record(tmp_path / "run" / "results" / "mini-aligned-seed1.json")
    assert written.adapter.manifest.overlap == manifests["aligned"].overlap
    assert [text.source for text in written.adapter.manifest.trained_on] == [
        "midalign_mini_mt",
        f"{tmp_path}/{{language}}.tsv",
    ]
    assert written.overlap.unchecked == []
    assert {(one.test, one.split, one.language) for one in written.overlap.found} >= {("mini", "test", "en")}
    clean = record.read_record(tmp_path / "run" / "results" / "mini-baseline-seed1.json")
    assert (clean.overlap.found, clean.overlap.unchecked) == ([], [])
    assert {task.repeated for task in written.tasks.values()} == {0}

    built = start(
        *("midalign.cli", "leaderboard", "build", "--results", tmp_path / "run" / "results"),
        *("--output", tmp_path / "board"),
    )
    assert "aligned §" in built.stdout
    page = (tmp_path / "board" / "README.md").read_text()
    assert "| aligned § |" in page
    assert "| baseline |" in page
    assert "§ aligned was trained on text of a test set: " in page
    assert "300 of 300 texts of mini test, en" in page
    models = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["sections"][0]["models"]
    assert {model["arm"]: bool(model["overlap"]) for model in models} == {
        "base": False,
        "baseline": False,
        "aligned": True,
    }


def test_by_arm_and_by_what_is_evaluated(stolen: str) -> None:
    settings = load_recipe("mini", [*SMALL[1:], stolen, "task=midalign_mini_mt", "allow_overlap=true"])
    found = evaluation_overlaps(settings, settings.arms)
    assert list(found) == ["baseline", "aligned"]
    assert found["baseline"] == []
    assert {one.language for one in found["aligned"]} >= {"en"}
    german = load_recipe("mini", [*SMALL[1:], stolen, "evaluation.languages=[es]"])
    assert (
        evaluation_overlaps(german, german.arms)["aligned"] == []
    )  # slot filling in Spanish has no English side
    assert evaluation_overlaps(german, []) == {}
    # What is said of the weights does not decide them.
    forbidden = settings.model_copy(update={"allow_overlap": False})
    assert settings.digest("aligned") == forbidden.digest("aligned")


def test_finished_adapters_are_checked_against_the_new_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pairs hold the test split: training for validation is fine, the same command with test is not."""
    monkeypatch.setattr(run, "is_trained", lambda *_: True)  # the adapters are there
    german = (item.utterance for item in mini.items("de", "test")[:40])
    (tmp_path / "de.tsv").write_text("".join(f"{text}\tx{i}\n" for i, text in enumerate(german)), "utf-8")
    pairs = f"align.pairs={tmp_path}/{{language}}.tsv"
    changes = [*SMALL[1:], pairs, "task=midalign_mini_mt", f"output={tmp_path}"]
    validation = load_recipe("mini", [*changes, "evaluation.split=validation"])
    assert len(train_recipe(validation, lambda _: None)) == 2
    test = load_recipe("mini", [*changes, "evaluation.split=test"])
    assert test.digest("aligned") == validation.digest("aligned")
    with pytest.raises(OverlapError, match=r"holds 4\d of 300 texts of mini test, de"):
        train_recipe(test, lambda _: None)
    assert len(train_recipe(test, lambda _: None, ["baseline"])) == 1  # whose text has nothing of it
    train_recipe(test.model_copy(update={"allow_overlap": True}), lambda _: None)


def test_an_arm_of_alignment_alone_does_not_learn_from_the_task(stolen: str) -> None:
    settings = load_recipe("mini", [*SMALL[1:], "align.task=false", "arms={aligned: {}}"])
    assert [text.kind for text in run.training_sources(settings, "aligned")] == ["pairs"]
    both = load_recipe("mini", SMALL[1:])
    assert [(text.kind, text.source) for text in run.training_sources(both, "aligned")] == [
        ("task", "midalign_mini_slot"),
        ("pairs", "mini"),
    ]
    assert [text.kind for text in run.training_sources(both, "baseline")] == ["task"]


def test_tasks_of_lm_eval_are_not_checked_rather_than_free_of_overlap() -> None:
    settings = load_recipe("mini", [*SMALL[1:], "task=lm_eval:mgsm_direct_{language}", "evaluate=false"])
    assert evaluation_overlaps(settings, settings.arms) == {"baseline": None, "aligned": None}


@pytest.mark.exhaustive
@pytest.mark.data
@pytest.mark.slow
def test_the_recipes_of_the_package_are_not_stopped(
    store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from midalign.data import alma, massive, tatoeba, uner, wmt23

    monkeypatch.setenv("MIDALIGN_CACHE", store_once(alma, massive, tatoeba, uner, wmt23))
    for name in shipped_recipes():
        settings = load_recipe(name)
        assert set(map(len, evaluation_overlaps(settings, settings.arms).values())) == {0}
