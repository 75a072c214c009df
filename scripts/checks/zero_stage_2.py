"""Two processes of DeepSpeed's stage 2 against one process with the same global batch.

pip install --no-deps --target FOLDER deepspeed hjson msgpack ninja py-cpuinfo einops
python scripts/checks/zero_stage_2.py FOLDER

The bundled base is trained through `accelerate launch --use_deepspeed` over gloo, once killed and started
again, with SGD, so that a gradient that is twice too large shows. Printed is, for every adapter, how far the
weights are from one process's as a share of what training moved them; the check fails above 1e-4.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import load_file

SETTINGS = [
    *("mini", "seeds=[1]", "updates=8", "save_every=1", "evaluate=false"),
    *("samples_per_update=7", "learning_rate=0.05", "lora.dropout=0.0"),
    *("align.pairs_per_update=6", "align.copy_samples=3", "align.preservation=3.0", "align.centred=running"),
    "arguments={optim: sgd, max_grad_norm: 0.0}",
]
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--use_deepspeed", "--zero_stage", "2"),
    *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]

# accelerate gives DeepSpeed to GPUs alone, and DeepSpeed compiles its own messages where it finds a compiler.
RUN = """
import runpy, sys
import midalign.device
midalign.device.has_bf16 = lambda: False
sys.argv[0] = "midalign.train"
runpy.run_module("midalign.train", run_name="__main__")
"""
RANK = """
import os
os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
begin = AcceleratorState.__init__
AcceleratorState.__init__ = lambda self, *given, **named: begin(self, *given, **(named | {"cpu": False}))
import deepspeed.comm.torch
deepspeed.comm.torch.build_shm_op = lambda: None
PartialState()
"""


def train(command: list[str], output: Path, environment: dict[str, str]) -> None:
    """Run to the end."""
    done = subprocess.run(
        [*command, *SETTINGS, f"output={output}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{command} ended with {done.returncode}:\n{done.stderr[-3000:]}")


def kill_midway(command: list[str], output: Path, environment: dict[str, str]) -> None:
    """Run until the aligned arm has a checkpoint, then SIGKILL."""
    checkpoints = output / "adapters" / ".aligned-seed1.training"
    process = subprocess.Popen(
        [*command, *SETTINGS, f"output={output}"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
        if process.poll() is not None:
            sys.exit("the run ended before it could be killed")
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    # The ranks have groups of their own.
    subprocess.run(["pkill", "-KILL", "-f", f"output={output}"], check=False)
    print("killed with", *sorted(path.name for path in checkpoints.glob("checkpoint-*")))


def apart(one: Path, two: Path) -> float:
    """The largest distance of a weight in two adapters, as a share of its length; lora_B begins at zero."""
    weights, others = (load_file(adapter / "adapter_model.safetensors") for adapter in (one, two))
    assert weights.keys() == others.keys()
    return max(
        float((others[name] - weight).norm() / weight.norm())
        for name, weight in weights.items()
        if "lora_B" in name
    )


def main(deepspeed: str) -> None:
    """One process, two of stage 2, and the comparison."""
    folder = Path(tempfile.mkdtemp())
    (folder / "one.py").write_text(RUN)
    (folder / "two.py").write_text(RANK + RUN)
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    alone.pop("ACCELERATE_USE_CPU", None)
    parted = alone | {"PYTHONPATH": os.pathsep.join([deepspeed, alone.get("PYTHONPATH", "")])}
    launch = [*LAUNCH, str(folder / "two.py")]
    train([sys.executable, str(folder / "one.py")], folder / "one", alone)
    kill_midway(launch, folder / "two", parted)
    train(launch, folder / "two", parted)
    shares = {
        arm: apart(folder / "one" / "adapters" / arm, folder / "two" / "adapters" / arm)
        for arm in ("baseline-seed1", "aligned-seed1")
    }
    for arm, share in shares.items():
        print(f"{arm}: weights at most {share:.1e} of their way apart")
    if max(shares.values()) > 1e-4:
        sys.exit("two processes of stage 2 do not end where one does")


if __name__ == "__main__":
    main(*sys.argv[1:])
