"""Two processes against one with the same global batch, through accelerate and in one update's gradients."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# `--cpu` alone starts one process; its environment variable and a launch for several start gloo's.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
SMALL = [
    "mini",
    "updates=3",
    "save_every=1",
    "seeds=[1]",
    "samples_per_update=6",
    "align.pairs_per_update=6",
    "align.copy_samples=3",
    "align.preservation=3.0",
    "align.centred=running",
    "align.learn_temperature=true",
    "evaluate=false",
]

ONE_RANK = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {folder!r})
import test_trainer as small
from midalign import bases
tokenizer = small.AutoTokenizer.from_pretrained(bases.resolve("mini"))
trainer = small.trainer_of(
    tokenizer, Path({work!r}), {changes!r}, updates=4, dtype=torch.float64, shared=True
)
assert small.world() == {processes}
trainer.train()
if trainer.is_world_process_zero():
    state = {{n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}}
    state |= dict(trainer.alignment.state_dict())
    small.save_file(state, {work!r} + "/weights.safetensors")
"""


def script(folder: Path, name: str, changes: tuple[str, ...], processes: int) -> Path:
    """A program that trains the tiny model of test_trainer.py and writes its weights."""
    (folder / name).mkdir()
    path = folder / f"{name}.py"
    here = str(Path(__file__).parent)
    text = ONE_RANK.format(folder=here, work=str(folder / name), changes=changes, processes=processes)
    path.write_text(text)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ("samples_per_update=7", "align.centred=running", "align.learn_temperature=true"),
        ("align.alternate=update", "align.symmetric=false", "align.centred=false"),
    ],
)
def test_two_processes_end_in_the_weights_of_one(tmp_path, changes):
    """In fp64, to 1e-8: samples shared unevenly, negatives gathered, both losses."""
    one, two = script(tmp_path, "one", changes, 1), script(tmp_path, "two", changes, 2)
    for command in ([sys.executable, one], [*LAUNCH, two]):
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    expected, found = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_accelerate_launches_a_recipe_shared_or_sharded_and_a_killed_process_ends_it(tmp_path):
    command = [*LAUNCH, "-m", "midalign.train", *SMALL, f"output={tmp_path}"]
    process = subprocess.Popen(
        [*command, "updates=500"], env=ENVIRONMENT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    work = tmp_path / "adapters" / ".baseline-seed1.training"
    deadline = time.monotonic() + 300
    while not list(work.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ranks = subprocess.run(
        ["pgrep", "-f", f"midalign.train .*output={tmp_path}"], capture_output=True, text=True, check=True
    )
    os.kill(max(int(pid) for pid in ranks.stdout.split()), signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert not (tmp_path / "adapters" / "baseline-seed1").exists()

    subprocess.run([sys.executable, "-c", "import shutil, sys; shutil.rmtree(sys.argv[1])", work], check=True)
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "adapters").iterdir()) == ["aligned-seed1", "baseline-seed1"]
    assert done.stdout.count("aligned-seed1") == 1

    sharded = [*LAUNCH[:3], "--use_fsdp", "--fsdp_version", "2", *LAUNCH[4:], "-m", "midalign.train", *SMALL]
    sharded += [f"output={tmp_path}/sharded"]
    done = subprocess.run(sharded, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for arm in ("aligned-seed1", "baseline-seed1"):
        folders = tmp_path / "adapters" / arm, tmp_path / "sharded" / "adapters" / arm
        shared, own = (json.loads((folder / "midalign.json").read_text())["training"] for folder in folders)
        assert own == pytest.approx(shared, rel=0.01)
        weights, again = (load_file(folder / "adapter_model.safetensors") for folder in folders)
        assert {name: w.shape for name, w in weights.items()} == {name: w.shape for name, w in again.items()}
