"""`--jobs`: the same weights as one after the other, and clear ends of processes that fail."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from midalign.adapter import adapter_digest
from midalign.errors import TrainingError
from midalign.train import parallel
from midalign.train.parallel import train_in_parallel
from midalign.train.recipe import load_recipe
from midalign.train.run import train_recipe

SMALL = [
    *("updates=3", "samples_per_update=4", "align.pairs_per_update=4", "evaluate=false", "seeds=[1]"),
]


def test_arms_trained_at_once_have_the_weights_of_arms_trained_in_turn(tmp_path):
    seen = []
    recipe = load_recipe("mini", [*SMALL, f"output={tmp_path / 'at-once'}"])
    at_once = train_in_parallel(recipe, 2, seen.append)
    in_turn = train_recipe(load_recipe("mini", [*SMALL, f"output={tmp_path / 'in-turn'}"]))
    assert [folder.name for folder in at_once] == ["baseline-seed1", "aligned-seed1"]
    assert [*map(adapter_digest, at_once)] == [*map(adapter_digest, in_turn)]
    assert {(now.arm, now.update) for now in seen} == {
        (arm, update) for arm in ("baseline", "aligned") for update in (1, 2, 3)
    }


def test_an_error_of_a_process_is_raised_and_ends_the_others(tmp_path):
    recipe = load_recipe("mini", [*SMALL, "updates=1000", "learning_rate=1e30", f"output={tmp_path}"])
    with pytest.raises(TrainingError, match="Inspect that batch, or lower learning_rate"):
        train_in_parallel(recipe, 2)
    assert not list(tmp_path.glob("adapters/*/adapter_model.safetensors"))


def test_jobs_in_a_launch_of_several_processes_are_rejected(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="Remove --jobs"):
        train_in_parallel(load_recipe("mini", SMALL), 2)


def test_a_killed_process_is_named():
    processes = []

    class Killed:
        """A process that someone else kills, as the kernel does when memory is full."""

        exitcode = -signal.SIGKILL

        def start(self):
            processes.append(self)

        def is_alive(self):
            return False

        def terminate(self):
            raise AssertionError("it has ended")

    with pytest.raises(TrainingError, match=r"status -9.*rerun the same command to resume"):
        parallel._run_all([Killed()], 2, torch.multiprocessing.get_context("spawn").Queue(), print)
    assert len(processes) == 1


def test_processes_end_with_their_parent(tmp_path):
    """A parent that is killed has no time to end its processes. They must not train on without it."""
    code = (
        "from midalign.train.parallel import train_in_parallel\n"
        "from midalign.train.recipe import load_recipe\n"
        "if __name__ == '__main__':\n"
        f"    recipe = load_recipe('mini', {[*SMALL, 'updates=100000', f'output={tmp_path}']!r})\n"
        "    train_in_parallel(recipe, 2, lambda now: print(now.update, flush=True))\n"
    )
    script = tmp_path / "train.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = [
            int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        ]
        parent.kill()
    deadline = time.monotonic() + 60
    while any(_is_running(pid) for pid in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.1)


def _is_running(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
