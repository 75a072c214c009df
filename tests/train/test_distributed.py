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
from every_form import BATCH, FORMS, WORLDS
from safetensors.torch import load_file

from midalign.train.recipe import Align

# `--cpu` alone starts one process; its environment variable and a launch for several start gloo's.
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
SHARDED = [*LAUNCH[:3], "--use_fsdp", "--fsdp_version", "2", *LAUNCH[4:]]
LAUNCHES = {
    "one": [sys.executable],
    "shared": LAUNCH,
    "sharded": SHARDED,
    "sharded blocks": [*SHARDED, "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"],
}
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

# accelerate shards on GPUs alone. Told that these processes have such, it does so over gloo.
AS_GPUS = """
import torch
from accelerate.state import DistributedType, PartialState
PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
torch.distributed.init_process_group("gloo")
"""

ONE_RANK = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {folder!r})
import test_trainer as small
from midalign import bases
tokenizer = small.AutoTokenizer.from_pretrained(bases.resolve("mini"))
# SGD without clipping: to Adam, or clipped, a gradient that is twice too large is the same.
trainer = small.trainer_of(
    tokenizer, Path({work!r}), {changes!r}, updates=4, dtype=torch.float64, shared=True, optim="sgd"
)
trainer.args.max_grad_norm, trainer.args.learning_rate = 0.0, 1e-4
assert small.world_size() == {processes}
trainer.train()
state = {{n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}}
assert trainer.sharded == ("/sharded" in {work!r})
state = {{n: p.full_tensor() if trainer.sharded else p for n, p in state.items()}}
if not trainer.sharded:
    from midalign.train.monitor_measures import gradient_cosine
    updates = [trainer.train_dataset[number] for number in range(2)]
    samples = trainer.gradients_of({{**updates[0], "pairs": []}})
    pairs = trainer.gradients_of({{"pairs": updates[0]["pairs"] or updates[1]["pairs"]}})
    Path({work!r}, f"cosine-{{small.process_rank()}}").write_text(str(gradient_cosine(samples, pairs)))
if trainer.is_world_process_zero():
    state |= dict(trainer.alignment.state_dict())
    small.save_file(state, {work!r} + "/weights.safetensors")
if {processes} > 1:  # a process that ends while another still uses the group may be aborted
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


UNLIKE_LOSSES = """
import sys
from collections import defaultdict
from types import SimpleNamespace
import torch
from midalign.train.trainer import AlignmentTrainer
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
trainer = SimpleNamespace(losses=defaultdict(list), args=SimpleNamespace(device="cpu"))
AlignmentTrainer.note(trainer, "preservation", torch.tensor(1.0), 1 / 2)
if rank:
    AlignmentTrainer.note(trainer, "copy", torch.tensor(9.0), 3)
AlignmentTrainer.note(trainer, "task", torch.tensor(2.0 + rank), 1)
print(AlignmentTrainer.take_losses(trainer))
"""


def test_losses_are_means_over_processes_that_saw_different_kinds(tmp_path):
    """The first process has no copy. Its preservation stays preservation, and nobody waits."""
    command = [sys.executable, "-c", UNLIKE_LOSSES]
    ranks = [
        subprocess.Popen([*command, rank, tmp_path / "store"], stdout=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    for process in ranks:
        assert process.communicate(timeout=120)[0] == ("{'task': 2.5, 'copy': 3.0, 'preservation': 2.0}\n")


def script(folder: Path, name: str, changes: tuple[str, ...], processes: int) -> Path:
    """A program that trains the tiny model of test_trainer.py and writes its weights."""
    (folder / name).mkdir()
    path = folder / f"{name}.py"
    here = str(Path(__file__).parent)
    text = ONE_RANK.format(folder=here, work=str(folder / name), changes=changes, processes=processes)
    path.write_text(AS_GPUS + text if name.startswith("sharded") else text)
    return path


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("changes", "launches"),
    [
        (("samples_per_update=7", "align.centred=running", "align.learn_temperature=true"), ["shared"]),
        (("samples_per_update=7", "align.centred=running"), ["sharded", "sharded blocks"]),
        (
            ("align.alternate=update", "align.symmetric=false", "align.centred=false"),
            ["shared", "sharded", "sharded blocks"],
        ),
    ],
)
def test_two_processes_end_in_the_weights_of_one(tmp_path, changes, launches):
    """In fp64, to 1e-8, weights shared or sharded, samples parted unevenly, negatives gathered."""
    weights = {}
    for name in ("one", *launches):
        program = script(tmp_path, name, changes, 1 if name == "one" else 2)
        command = [*LAUNCHES[name], program]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        weights[name] = load_file(tmp_path / name / "weights.safetensors")
    cosines = [float(path.read_text()) for path in tmp_path.glob("*/cosine-*")]
    assert cosines == [pytest.approx(cosines[0], rel=1e-6)] * (3 if "shared" in launches else 1)
    expected = weights.pop("one")
    for found in weights.values():
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-8)


def test_the_forms_set_every_key_of_the_alignment():
    """A new key needs a form of its own in every_form.py."""
    which_pairs = {"pairs", "pairs_a_language", "held_out"}
    given = {change.partition("=")[0] for form in (*FORMS.values(), BATCH) for change in form}
    assert {f"align.{key}" for key in set(Align.model_fields) - which_pairs} <= given


@pytest.mark.slow
@pytest.mark.exhaustive
def test_any_number_of_processes_trains_every_form_alike(tmp_path):
    """To 1e-10 of the largest change of a weight, and 1e-6 of a loss, with 1, 2 and 4 processes.

    Of four processes, some see no copy, no text, or no sample of the task. None can be without a pair: a
    number of pairs that the processes cannot share is rejected.
    """
    program = Path(__file__).with_name("every_form.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path],
        env={**ENVIRONMENT, "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in FORMS:
        expected, *others = (load_file(tmp_path / str(n) / f"{name}.safetensors") for n in WORLDS)
        losses, *other_losses = (json.loads((tmp_path / str(n) / f"{name}.json").read_text()) for n in WORLDS)
        assert losses
        for found, found_losses in zip(others, other_losses, strict=True):
            assert found.keys() == expected.keys()
            for key, change in expected.items():
                tolerance = 1e-10 * float(change.double().abs().max())
                torch.testing.assert_close(found[key], change, rtol=0, atol=tolerance, msg=f"{name} {key}")
            assert found_losses == [pytest.approx(update, rel=1e-6) for update in losses], name


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_killed_process_ends_a_launch_and_a_fresh_one_trains(tmp_path):
    command = [*LAUNCH, "-m", "midalign.train", *SMALL, f"output={tmp_path}"]
    process = subprocess.Popen(
        [*command, "updates=500"], env=ENVIRONMENT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    work = tmp_path / "adapters" / ".baseline-seed1.training"
    wait_for_checkpoint(process, work)
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


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_sharded_run_is_killed_resumed_and_saved_whole(tmp_path):
    """Its adapters are those of shared weights; what only these allow is refused."""
    program = tmp_path / "sharded.py"
    program.write_text(AS_GPUS + 'import runpy\nrunpy.run_module("midalign.train", run_name="__main__")\n')
    settings = [*SMALL, "updates=8", "align.learn_temperature=false"]
    sharded = [*SHARDED, program, *settings, f"output={tmp_path / 'sharded'}"]

    def run(*command: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    refused = run(*sharded, "align.learn_temperature=true")
    assert refused.returncode == 1
    assert "align.learn_temperature adds a weight outside the model" in refused.stderr

    work = tmp_path / "sharded" / "adapters" / ".aligned-seed1.training"
    process = subprocess.Popen(sharded, env=ENVIRONMENT, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for_checkpoint(process, work)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(["pkill", "-KILL", "-f", str(program)], check=False)  # the ranks have groups of their own
    assert work.is_dir()

    for command in (sharded, [*LAUNCH, "-m", "midalign.train", *settings, f"output={tmp_path / 'shared'}"]):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    for arm in ("aligned-seed1", "baseline-seed1"):
        expected, found = (
            load_file(tmp_path / name / "adapters" / arm / "adapter_model.safetensors")
            for name in ("shared", "sharded")
        )
        assert expected.keys() == found.keys()
        for name, weight in expected.items():  # to Adam a gradient of nearly zero may have either sign
            assert (found[name] - weight).norm() < 0.25 * weight.norm(), name


def wait_for_checkpoint(process: "subprocess.Popen[bytes]", work: Path) -> None:
    """Return once a whole checkpoint lies in `work`."""
    deadline = time.monotonic() + 300
    while not list(work.glob("checkpoint-*/files.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
