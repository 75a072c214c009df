"""The frame of scripts/gpu_check.py."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from gpu_check_steps import checking, engines, installation, memory, speed  # noqa: E402
from gpu_check_steps.checking import CheckRow, CheckRun, CheckState, judged, not_run, run_step  # noqa: E402


@pytest.fixture
def run(tmp_path: Path) -> CheckRun:
    return CheckRun(tmp_path, gpu=False, short=True)


def test_a_second_run_repeats_only_steps_that_have_not_passed(run: CheckRun, tmp_path: Path) -> None:
    results = {
        "passed": [judged("a", "1", "1", True)],
        "failed": [judged("b", "1", "2", False)],
        "left": [judged("c", "1", "1", True), not_run("d", "1", "no GPU")],
    }
    ran: list[str] = []

    def steps(state: CheckState) -> None:
        for name, rows in results.items():

            def step(_: CheckRun, name: str = name, rows: list[CheckRow] = rows) -> list[CheckRow]:
                ran.append(name)
                return rows

            assert run_step(run, name, step, state) == rows

    steps(CheckState(tmp_path / "results.json"))
    assert ran == ["passed", "failed", "left"]
    steps(CheckState(tmp_path / "results.json"))
    assert ran[3:] == ["failed", "left"]


def test_finished_steps_are_on_disk_before_the_next_one_starts(run: CheckRun, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    state = CheckState(path)
    run_step(run, "first", lambda _: [judged("a", "1", "1", True)], state)

    def interrupted(_: CheckRun) -> list[CheckRow]:
        assert list(json.loads(path.read_text("utf-8"))["steps"]) == ["first"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(run, "second", interrupted, state)
    assert CheckState(path).is_done("first")
    assert not CheckState(path).is_done("second")


def test_an_exception_fails_its_step_alone(run: CheckRun, tmp_path: Path) -> None:
    def broken(_: CheckRun) -> list[CheckRow]:
        raise RuntimeError("CUDA out of memory")

    (row,) = run_step(run, "broken", broken, CheckState(tmp_path / "results.json"))
    assert (row.status, row.found) == ("fail", "RuntimeError: CUDA out of memory")


def test_a_command_is_ended_at_the_deadline_of_its_step(run: CheckRun) -> None:
    run.deadline = 0.0
    done = run.command(sys.executable, "-c", "import time; time.sleep(600)")
    assert done.status != 0
    assert done.last_line.endswith("the most that a step may take")
    assert "time.sleep(600)" in (run.output / "commands.log").read_text("utf-8")


def test_outputs_of_other_items_are_not_equal() -> None:
    first = {("mini", "task", 0): "a", ("mini", "task", 1): "b"}
    assert checking.equal_share(first, first) == 1
    assert checking.equal_share(first, {**first, ("mini", "task", 1): "c"}) == 0.5
    assert checking.equal_share(first, {("mini", "task", 0): "a"}) == 0
    assert checking.equal_share({}, {}) == 0


def test_memory_of_the_trainer_counts_while_the_engine_is_there() -> None:
    # Process 7 belongs to another program, 10 is the trainer, 20 the engine.
    samples = [{7: 500}, {7: 500, 10: 30_000}, {7: 500, 10: 900, 20: 400}, {7: 500, 10: 300, 20: 9_000}]
    assert memory.held_beside_others(samples, 10, {7}) == 900
    assert memory.held_beside_others(samples[:2], 10, {7}) is None
    assert memory.held_beside_others([{}, {}], 10, set()) is None


def test_memory_is_read_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '10, 900'\necho '20, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert memory.sample_memory() == {10: 900}


@pytest.mark.parametrize(
    ("last", "status", "expected"),
    [
        ("29 passed in 71s", 0, "pass"),
        ("28 passed, 1 skipped in 71s", 0, "fail"),
        ("1 failed, 28 passed in 71s", 1, "fail"),
        ("no tests ran in 1s", 0, "fail"),
    ],
)
def test_skipped_tests_fail_the_check(last: str, status: int, expected: str) -> None:
    assert installation._judge_tests("tests", "all", f"....\n{last}\n", status).status == expected


def test_every_step_for_a_gpu_is_marked_as_not_run_without_one(run: CheckRun) -> None:
    steps: list[Any] = [installation.gpu_tests, installation.hidden_gpu, engines.rejected_adapters]
    steps += [engines.one_batch]
    steps += [speed.gemma_training, speed.gemma_vllm, speed.gemma_hf, speed.plain_lm_eval]
    rows = [row for step in steps for row in step(run)]
    assert {row.status for row in rows} == {"not run"}
    assert all(row.found.startswith("no GPU") for row in rows)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make setup")
@pytest.mark.skipif(torch.cuda.is_available(), reason="scripts/gpu_check.py runs by itself on a GPU")
def test_cheap_steps_pass_on_vllm_cpu(tmp_path: Path) -> None:
    """As a command, in its short form. Two steps take long: CI runs set-up and demo by themselves."""
    import gpu_check

    steps = [name for name in gpu_check.STEPS if name not in ("installation", "demo")]
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--short", "--output", str(tmp_path)]
    done = subprocess.run([*command, *steps], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    state = CheckState(tmp_path / "results.json")
    assert list(state.steps) == steps
    passed = {row.name for name in steps for row in state.rows(name) if row.status == "pass"}
    assert passed == {
        "versions",
        "Python",
        "outputs of both engines",
        "base and adapters in vllm",
        "seconds",
    }
    assert "5 pass, 0 fail" in (tmp_path / "table.md").read_text("utf-8")


def test_rejected_adapters_are_written_for_peft(tmp_path: Path) -> None:
    for name, settings in engines.REJECTED.items():
        folder = tmp_path / name
        engines.write_adapter(folder, {**settings, "r": min(settings["r"], 8)})
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        assert config["use_dora"] == (name == "DoRA")
        assert bool(config["rank_pattern"]) == (name == "rank_pattern")
