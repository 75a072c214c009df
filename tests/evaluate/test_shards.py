"""An evaluation in shards, merged, is the whole evaluation."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from midalign import device, harness, record
from midalign.cli.eval import _shard
from midalign.data.overlap import OverlapCheck
from midalign.errors import MidalignError, RecordError
from midalign.evaluate import live, run, shards
from midalign.evaluate.outcome import deciding_settings, describe_engine, run_digest
from midalign.evaluate.plan import _check_models
from midalign.evaluate.settings import EvalSettings
from midalign.leaderboard.load import load_runs

TASKS = ("midalign_mini_slot_de", "midalign_mini_slot_hi", "midalign_mini_mt_en-de")


def evaluated(output: Path, base: Path, adapter: Path, shard: tuple[int, int] | None, **changes: Any) -> Path:
    settings = {
        "base": str(base),
        "tasks": TASKS,
        "output": output,
        "adapters": (adapter,),
        "limit": 4,
        "shard": shard,
        **changes,
    }
    run.evaluate_models(EvalSettings(**settings), lambda _: None)
    return output


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, base: Path, adapter: Path) -> "dict[str, Path]":
    """One whole evaluation, and its three shards in two folders, as two machines would write them."""
    with pytest.MonkeyPatch.context() as patch:
        # In bf16 an answer may depend on which others share its batch.
        patch.setattr(device, "has_bf16", lambda: False)
        folder = tmp_path_factory.mktemp("shards")
        for number, machine in ((1, "one"), (2, "two"), (3, "one")):
            evaluated(folder / machine, base, adapter, (number, 3))
        evaluated(folder / "whole", base, adapter, None)
    return {path.name: path for path in folder.iterdir()}


def merge(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "midalign", "leaderboard", "merge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_merged_shards_are_the_whole_record(folders: dict[str, Path], tmp_path: Path) -> None:
    done = merge(folders["one"], folders["two"], "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in folders["whole"].iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        if not name.endswith(record.SUFFIX):
            assert (tmp_path / name).read_bytes() == (folders["whole"] / name).read_bytes()
            continue
        found, wanted = (timeless(folder / name) for folder in (tmp_path, folders["whole"]))
        assert found == wanted
        assert found["retrieval"]
    assert len(load_runs(tmp_path)) == 2 * 2


def timeless(path: Path) -> dict[str, Any]:
    """A record without its times."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    del content["created"], content["seconds"]
    for task in content["tasks"].values():
        del task["seconds"]
    return content


def test_a_shard_has_its_part(folders: dict[str, Path]) -> None:
    sizes = []
    for folder, number in (("one", 1), ("two", 2), ("one", 3)):
        (entry,) = (
            entry
            for entry in map(record.read_record, sorted(folders[folder].glob(f"*shard-{number}-of-3.json")))
            if entry.adapter is None
        )
        sizes.append(sum(task.n for task in entry.tasks.values()))
        assert (entry.retrieval is not None) == (number == 1)
    assert sizes == [4, 4, 4]


def test_a_board_wants_whole_records(folders: dict[str, Path]) -> None:
    with pytest.raises(RecordError, match=r"shard 1 of 3.*midalign leaderboard merge"):
        load_runs(folders["one"])


def test_a_missing_shard_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    done = merge(folders["one"], "--output", tmp_path / "merged")
    assert done.returncode == 1
    assert "lacks 1 of 3 shards: 2" in done.stderr
    assert "--shard 2/3" in done.stderr
    assert not (tmp_path / "merged").exists()
    with pytest.raises(RecordError, match="No shard"):
        shards.merge_shards([tmp_path], tmp_path / "merged")


def test_a_doubled_shard_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    again = shutil.copytree(folders["one"], tmp_path / "again")
    with pytest.raises(RecordError, match="both shard 1"):
        shards.merge_shards([folders["one"], folders["two"], again], tmp_path / "merged")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sample", {"split": "test", "limit": 5, "seed": 0}, "their sample differs"),
        ("packages", {"torch": "1.0"}, "their packages differs"),
        (
            "engine",
            {"name": None, "dtype": None, "device": None, "gpu": "NVIDIA L4"},
            r"their engine differs \(hf float32 on NVIDIA L4, hf float32 on cpu",
        ),
        ("shard", {"number": 2, "of": 3, "run": "0" * 64}, "their tasks, settings or number"),
        ("shard", {"number": 2, "of": 4, "run": None}, "their tasks, settings or number"),
    ],
)
def test_shards_of_different_runs_are_refused(
    folders: dict[str, Path], tmp_path: Path, field: str, value: dict[str, Any], message: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folders["two"], other)
    for path in other.glob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        content[field] = {key: content[field][key] if one is None else one for key, one in value.items()}
        path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(RecordError, match=f"different runs: {message}"):
        shards.merge_shards([folders["one"], other], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_what_is_asked_decides_which_run_it_is(base: Path, tmp_path: Path) -> None:
    """Another prompt, another run."""
    settings = EvalSettings(base=str(base), tasks=TASKS, output=tmp_path, limit=4, shard=(2, 3))
    names = {}
    for shots in (0, 1):
        own = replace(settings, num_fewshot=shots)
        tasks = harness.load_tasks(TASKS)
        model = _check_models(own, str(base))[0]
        names[shots] = run_digest(own, str(base), "hf", model, tasks)
    assert names[0] != names[1]


def test_a_gpu_decides_about_parts_but_not_which_run_it_is(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers of unlike GPUs may differ, so none reuses those of another. Their shards meet in the merge."""
    settings = EvalSettings(base=str(base), tasks=TASKS, output=tmp_path, limit=4)
    tasks, model = harness.load_tasks(TASKS), _check_models(settings, str(base))[0]
    runs, parts = set(), set()
    for gpu in (None, "NVIDIA A100", "NVIDIA L4"):
        monkeypatch.setattr(device, "gpu_name", lambda gpu=gpu: gpu)
        runs.add(run_digest(settings, str(base), "vllm", model, tasks))
        parts.add(json.dumps(deciding_settings(settings, str(base), "vllm", model)))
        assert describe_engine("vllm", settings).gpu == gpu
    assert (len(runs), len(parts)) == (1, 3)
    invariant = replace(settings, batch_invariant=True)
    assert describe_engine("vllm", invariant).batch_invariant
    assert run_digest(invariant, str(base), "vllm", model, tasks) not in runs
    assert run_digest(invariant, str(base), "hf", model, tasks) == run_digest(
        settings, str(base), "hf", model, tasks
    )


def test_a_shard_of_other_tasks_is_refused_before_the_model_is_loaded(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EvalSettings(
        base=str(base), tasks=TASKS[:1], output=tmp_path, engine="hf", limit=4, shard=(1, 2)
    )
    run.evaluate_models(settings, lambda _: None)
    monkeypatch.setattr(live, "load_with_adapters", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(RecordError, match="run of the shards"):
        run.evaluate_models(replace(settings, tasks=TASKS), lambda _: None)


def test_more_shards_than_items(base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(MidalignError, match="100 shards of 12 items"):
        evaluated(tmp_path, base, adapter, (1, 100))


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "a/b", "/"])
def test_no_shard(text: str) -> None:
    from midalign.cli import app

    done = CliRunner().invoke(app.app, ["eval", "--base", "mini", "--tasks", TASKS[0], "--shard", text])
    assert done.exit_code == 2
    assert "2/8" in done.output


def test_a_shard_is_read() -> None:
    assert _shard("2/8") == (2, 8)
    assert _shard("") is None


def test_the_array_script_asks_for_each_shard_once(tmp_path: Path) -> None:
    """With a stand-in for the command, since there is no SLURM here."""
    script = Path(__file__).parents[2] / "scripts" / "slurm" / "eval_array.sh"
    command = tmp_path / ".venv" / "bin" / "midalign"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\necho "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
    done = subprocess.run(
        ["bash", script, "base", "a", "b"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    shard = "--tasks midalign_slot --shard 3/8 --output shards"
    assert done.stdout == f"eval --base base --adapter a --adapter b {shard}\n"


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 12))
def test_shards_are_even_and_share_all(sizes: list[int], of: int) -> None:
    positions = {f"task {i}": list(range(10, 10 + size)) for i, size in enumerate(sizes)}
    parts = [shards.shard_items(positions, number, of) for number in range(1, of + 1)]
    counts = [sum(map(len, part.values())) for part in parts]
    assert max(counts) - min(counts) <= 1
    joined = [(name, item) for part in parts for name, items in part.items() for item in items]
    assert joined == list(
        itertools.chain.from_iterable(((n, i) for i in own) for n, own in positions.items())
    )
    assert all(items for part in parts for items in part.values())


def test_merged_shards_have_the_most_complete_overlap_check() -> None:
    """One machine may lack the training text."""
    known, without = OverlapCheck(found=[], unchecked=[]), OverlapCheck(found=[], unchecked=["pairs"])
    checks = [SimpleNamespace(overlap=one) for one in (without, known, None)]
    assert shards._overlap(checks) == known
    assert shards._overlap(checks[:1]) == without
    assert shards._overlap(checks[2:]) is None


def test_shards_that_different_comet_models_scored_are_refused() -> None:
    def part(digest: str) -> Any:
        return SimpleNamespace(
            comet=record.Comet(name="mine", digest=digest * 64, version="2.2.7", value=0.5, stderr=0.1, n=1)
        )

    items: Any = SimpleNamespace(comet=np.array([1, 2]))
    with pytest.raises(RecordError, match=r"scored by mine \(aaaaaaaaaaaa.* by mine \(bbbbbbbbbbbb"):
        shards._pool_results("midalign_mini_mt_en-de", [part("a"), part("b")], items)
