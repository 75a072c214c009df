"""The share of GPU memory that vLLM gets, and its start, on a stand-in for torch.cuda."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from midalign.errors import EngineError
from midalign.evaluate import gpu_memory, install, vllm_start
from midalign.evaluate.engine import choose_engine
from midalign.evaluate.gpu_memory import GIB
from midalign.evaluate.settings import BATCH_INVARIANT, EvalSettings, EvaluatedModel
from midalign.evaluate.vllm_start import EngineLog, start_vllm

MOVED = (
    "Error in memory profiling. Initial free memory 60.0 GiB, current free memory 70.0 GiB. This happens "
    "when other processes sharing the same container release GPU memory while vLLM is profiling"
)
"""The assertion of determine_available_memory in vllm/v1/worker/gpu_worker.py."""
FULL = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 96.00 MiB"
DIED = "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Free and total GiB of each GPU, which a test may change."""
    gpus = [(70.0, 80.0), (79.0, 80.0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda number: tuple(int(size * GIB) for size in gpus[number])
    )
    monkeypatch.setattr(gpu_memory, "memory_holders", lambda: ["4711, python, 9000 MiB"])
    return gpus


def test_vllm_gets_what_is_free(cuda: list[tuple[float, float]]) -> None:
    """vLLM requires that its share of the total is free once its processes have allocated their contexts."""
    assert gpu_memory.memory_share(2) == 0.86  # (70 - 1) / 80 = 0.8625 of the fullest
    cuda[0] = (12.3, 80.0)
    share = gpu_memory.memory_share(1)
    assert share * 80 + 1 <= 12.3
    assert share == 0.14
    cuda[0] = (80.0, 80.0)
    assert gpu_memory.memory_share(1) == 0.92
    cuda[0] = (1.5, 80.0)
    with pytest.raises(EngineError, match=r"GPU 0: 1.5 of 80.0 GiB are free\nProcess 4711, python, 9000 MiB"):
        gpu_memory.memory_share(1)


def test_a_full_gpu_is_one_screen(cuda: list[tuple[float, float]]) -> None:
    """As transformers loads the base for the proof, or answers."""
    cuda[0] = (0.1, 80.0)
    with pytest.raises(EngineError) as caught, gpu_memory.reported_out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...\nIf ...")
    first, *lines = str(caught.value).splitlines()
    assert (
        first == "torch ran out of GPU memory: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."
    )
    assert lines[:2] == ["GPU 0: 0.1 of 80.0 GiB are free", "Process 4711, python, 9000 MiB"]
    assert "CUDA_VISIBLE_DEVICES" in lines[2]


def test_a_share_is_asked_for_only_on_a_gpu_and_unless_given(cuda: list[tuple[float, float]]) -> None:
    assert gpu_memory.measured_gpus({"tensor_parallel_size": 2}) == 2
    assert gpu_memory.measured_gpus({}) == 1
    assert gpu_memory.measured_gpus({"gpu_memory_utilization": 0.5}) == 0


def test_holders_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '12, /usr/bin/python3, 512 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert gpu_memory.memory_holders() == ["12, /usr/bin/python3, 512 MiB"]
    program.write_text("#!/bin/sh\necho failed; exit 9\n")
    assert gpu_memory.memory_holders() == []


def failing(*errors: str | None) -> tuple[Callable[[float | None], None], list[float | None]]:
    """A start of vLLM that fails with each error in turn, and the shares that it received."""
    left, shares = list(errors), []

    def start(share: float | None) -> None:
        shares.append(share)
        error = left.pop(0)
        if error is not None:
            raise RuntimeError(error)

    return start, shares


def test_a_start_is_repeated_once_if_memory_moved(
    cuda: list[tuple[float, float]], caplog: pytest.LogCaptureFixture
) -> None:
    start, shares = failing(MOVED, None)
    start_vllm(start, 1, EngineLog())
    assert shares == [0.86, 0.85]  # with twice the reserve
    assert "Starting it again" in caplog.text
    start, shares = failing(MOVED, MOVED)
    with pytest.raises(EngineError, match=r"vLLM did not start.*memory profiling[^$]*4711, python") as caught:
        start_vllm(start, 1, EngineLog())
    assert len(shares) == 2
    assert isinstance(caught.value.__cause__, RuntimeError)
    start, shares = failing("unknown architecture")
    with pytest.raises(EngineError, match="unknown architecture\nUse the other engine: --engine hf"):
        start_vllm(start, 1, EngineLog())
    assert shares == [0.86]


def test_the_cause_is_read_from_the_output_of_vllms_processes(
    cuda: list[tuple[float, float]], capfd: pytest.CaptureFixture[str]
) -> None:
    """vLLM raises an error that names no cause. Its processes print theirs, which is not shown."""

    def start(share: float | None) -> None:
        trace = f"Traceback (most recent call last):\n  File x\n(EngineCore pid=7) ERROR 11-30 {FULL}\n"
        subprocess.run([sys.executable, "-c", f"import sys; sys.stderr.write({trace!r})"], check=True)
        raise RuntimeError(DIED)

    engine_log = EngineLog()
    with pytest.raises(EngineError) as caught:
        start_vllm(start, 1, engine_log)
    message = str(caught.value)
    assert message.splitlines()[0] == f"vLLM did not start: {FULL}"
    assert "GPU 0: 70.0 of 80.0 GiB are free" in message
    assert "--tensor-parallel N" in message
    assert message.endswith(str(engine_log.path))
    assert "Traceback" in engine_log.path.read_text()
    assert capfd.readouterr() == ("", "")
    engine_log.path.unlink()


def test_python_still_writes_while_the_output_of_processes_is_kept(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from midalign.evaluate.vllm_start import EngineLog\n"
        "log = EngineLog()\n"
        "with log.receive_output():\n"
        "    print('shown'); print('too', file=sys.stderr); os.system('echo kept')\n"
        "print('after', log.path.read_text().strip(), log.path)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    words = done.stdout.split()
    assert (words[:3], done.stderr) == (["shown", "after", "kept"], "too\n")
    assert not Path(words[3]).exists()  # nothing failed


SCRIPT = """
import multiprocessing, os, sys
print("runs", flush=True)
from midalign.evaluate.vllm_start import EngineLog, start_vllm
def start(share):
    process = multiprocessing.get_context("spawn").Process(target=os._exit, args=(7,))
    process.start()
    process.join(60)
    assert process.exitcode == 7, process.exitcode
start_vllm(start, 0, EngineLog())
main = sys.modules["__main__"]
print(main.__file__, main.__spec__ and main.__spec__.name)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_a_script_without_a_guard_does_not_start_over_in_vllms_processes(
    tmp_path: Path, as_module: bool
) -> None:
    """vLLM starts its processes by spawn, which imports the script again."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, *(("-m", "script") if as_module else (str(script),))]
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(tmp_path)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines() == ["runs", f"{script} {'script' if as_module else None}"]


def test_a_cuda_build_without_a_gpu_is_found_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "has_vllm", lambda: True)
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: "0.32.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EngineError, match=r"build for CUDA.*CUDA_VISIBLE_DEVICES is ''.*--engine hf"):
        install.require_vllm()
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: "0.32.0+cpu")
    install.require_vllm()
    monkeypatch.setattr(install.importlib.metadata, "version", lambda name: "0.32.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    install.require_vllm()


def live_bytes() -> int:
    """Bytes of all tensors that Python can reach, as torch.cuda.memory_allocated counts them on a GPU."""
    gc.collect()
    # Exact types: other tests leave fake tensors without memory.
    tensors = (thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_training_leaves_no_memory_to_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation is another process, which starts once this one has freed what training held."""
    from midalign.cli import train
    from midalign.train.recipe import load_recipe
    from midalign.train.run import train_recipe

    before, seen, emptied = live_bytes(), [], []
    small = ["seeds=[1]", "updates=2", "samples_per_update=4", f"output={tmp_path}"]
    recipe = load_recipe("mini", small)
    adapters = train_recipe(recipe, arms=["baseline"])

    class Evaluation:
        returncode = 0

        def __init__(self, command: list[str]) -> None:
            assert "eval" in command
            assert emptied == [1]
            seen.append(live_bytes() - before)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    monkeypatch.setattr(train.subprocess, "Popen", Evaluation)
    train.evaluate_adapters(recipe, adapters)
    assert seen[0] < 2**20  # the base alone has 12 MB


def test_variables_are_set_before_vllm_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("VLLM_WORKER_MULTIPROC_METHOD", "VLLM_USE_FLASHINFER_SAMPLER", "VLLM_LOGGING_LEVEL")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(vllm_start, "require_vllm", lambda: None)
    vllm_start.prepare_vllm()
    assert [os.environ[name] for name in names] == ["spawn", "0", "ERROR"]


def test_options_of_vllm_are_not_ignored(
    cuda: list[tuple[float, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = EvaluatedModel("tiny", None, None, None)
    settings = EvalSettings(base="tiny", tasks=(), output=tmp_path, engine="hf", tensor_parallel=2)
    with pytest.raises(EngineError, match="--tensor-parallel 2 is for vLLM on GPUs, and the engine is hf"):
        choose_engine(settings, "tiny", [base])
    monkeypatch.setattr(install, "has_vllm", lambda: True)
    with pytest.raises(EngineError, match="--tensor-parallel 2 and --max-loras 4 is for vLLM on GPUs"):
        choose_engine(replace(settings, max_loras=4), "tiny", [base])
    assert choose_engine(replace(settings, engine="vllm", max_loras=4), "tiny", [base]) == "vllm"
    with pytest.raises(EngineError, match="needs 3 GPUs, and torch finds 2"):
        choose_engine(replace(settings, engine="vllm", tensor_parallel=3), "tiny", [base])
    # Batch-invariant by the option, or by the variable of vLLM, which then reads what the record says.
    monkeypatch.setenv(BATCH_INVARIANT, "1")
    invariant = EvalSettings(base="tiny", tasks=(), output=tmp_path, engine="vllm")
    assert invariant.batch_invariant
    assert choose_engine(invariant, "tiny", [base]) == "vllm"
    assert os.environ[BATCH_INVARIANT] == "1"
    with pytest.raises(EngineError, match=r"--batch-invariant is for vLLM.*unset VLLM_BATCH_INVARIANT"):
        choose_engine(replace(invariant, engine="hf"), "tiny", [base])
    choose_engine(replace(invariant, batch_invariant=False), "tiny", [base])
    assert os.environ[BATCH_INVARIANT] == "0"
    cuda.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="the engine is vllm without a GPU"):
        choose_engine(replace(settings, engine="vllm"), "tiny", [base])
