"""The demo, and the two engines against each other on the bundled base: answers, errors, interruptions."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_check_steps import memory
from gpu_check_steps.checking import (
    CheckRow,
    CheckRun,
    equal_share,
    eval_words,
    judged,
    not_run,
    read_outputs,
    read_records,
)

LEAST_EQUAL = 0.98
"""Least share of outputs that two engines have in common."""
MOST_LINES = 25
"""Lines of one screen."""

FP32 = """
from midalign import cli, device
with device.fixed_dtype("float32"):
    cli.main()
"""
"""On a CPU, engines are compared in fp32: in bf16, rounding alone changes half of the answers."""

PEAK = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def tasks_of(run: CheckRun) -> tuple[str, int]:
    """Return the tasks and the items per task for comparisons of engines."""
    if run.short:
        return "midalign_mini_json_en,midalign_mini_mt_en-de", 5
    return "midalign_mini_json", 40 if run.gpu else 10


def demo(run: CheckRun) -> list[CheckRow]:
    """Train and evaluate a short form of recipe mini-families while memory is sampled."""
    form = [
        "seeds=[1]",
        "updates=240",
        "samples_per_update=16",
        "align.pairs_per_update=16",
        "evaluation.limit=10",
    ]
    if run.short:
        form = ["seeds=[1]", "updates=4", "evaluation.limit=1", "evaluation.languages=[en]"]
    elif not run.gpu:
        form[-1] = "evaluation.limit=2"
    folder = run.output / "demo"
    before = set(memory.sample_memory()) if run.gpu else set()
    words = (sys.executable, "-m", "midalign.train", "mini-families", f"output={folder}", *form)
    if run.gpu:
        process = run.start(*words)
        samples = memory.watch_memory(process, run.deadline)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        message = (run.printed()[1].strip().splitlines() or [""])[-1]
    else:
        done = run.command(*words)
        status, message = done.status, done.last_line
    engines = {
        (record["engine"]["name"], record["engine"]["device"]) for record in read_records(folder / "results")
    }
    wanted = {("vllm", "cuda")} if run.gpu else {("hf", "cpu")}
    rows = [
        judged("demo", "status 0", f"status {status}: {message}", status == 0),
        judged("engine of the records", _shown(wanted), _shown(engines), engines == wanted),
    ]
    expected = f"under {memory.MOST_MEBIBYTES} MiB when the engine starts"
    if not run.gpu:
        return [*rows, not_run("memory of the trainer", expected, "no GPU")]
    held = memory.held_beside_others(samples, process.pid, before)
    if held is None:
        return [*rows, not_run("memory of the trainer", expected, "nvidia-smi shows no processes here")]
    return [*rows, judged("memory of the trainer", expected, f"{held} MiB", held < memory.MOST_MEBIBYTES)]


def _shown(engines: set[tuple[str, str]]) -> str:
    return ", ".join(" on ".join(pair) for pair in sorted(engines)) or "no record"


def two_engines(run: CheckRun) -> list[CheckRow]:
    """Compare the answers of vLLM and Hugging Face for the base and both adapters."""
    tasks, limit = tasks_of(run)
    adapters = run.adapters()
    if run.short:  # the demo's few updates change no answer
        adapters = [run.output / "random-1", run.output / "random-2"]
        for seed, adapter in enumerate(adapters):
            write_adapter(adapter, {"r": 8}, seed)
    seconds = {}
    for engine in ("vllm", "hf"):
        folder = run.output / engine
        words = eval_words(adapters, tasks, limit, engine, folder)
        done = run.midalign(*words) if run.gpu else run.command(sys.executable, "-c", FP32, *words)
        if done.status != 0:
            return [judged(f"engine {engine}", "status 0", done.last_line, False)]
        seconds[engine] = done.seconds
    vllm, hf = read_outputs(run.output / "vllm"), read_outputs(run.output / "hf")
    share = equal_share(vllm, hf)
    models: dict[str, list[str]] = {}
    for (name, _, _), output in vllm.items():
        models.setdefault(name, []).append(output)
    distinct = len({tuple(outputs) for outputs in models.values()})
    ratio = f"vllm {seconds['vllm']:.0f} s, hf {seconds['hf']:.0f} s, starts included"
    return [
        judged(
            "outputs of both engines",
            f"{LEAST_EQUAL:.0%} equal",
            f"{share:.1%} of {len(vllm)}",
            share >= LEAST_EQUAL,
        ),
        judged("base and adapters in vllm", "3 differ", f"{distinct} of {len(models)} differ", distinct == 3),
        judged("seconds", "recorded", ratio, True),
    ]


def one_batch(run: CheckRun) -> list[CheckRow]:
    """Answer with both adapters in one batch, and compare with one model after the other."""
    names = "outputs of one batch", "seconds of one batch"
    if not run.gpu:
        expected = f"{LEAST_EQUAL:.0%} equal", "recorded"
        reason = "no GPU: on a CPU, adapters are merged"
        return [not_run(name, wanted, reason) for name, wanted in zip(names, expected, strict=True)]
    tasks, limit = tasks_of(run)
    seconds = {}
    for most in (1, 2):
        words = eval_words(run.adapters(), tasks, limit, "vllm", run.output / f"max-loras-{most}")
        done = run.midalign(*words, "--max-loras", most)
        if done.status != 0:
            return [judged(f"--max-loras {most}", "status 0", done.last_line, False)]
        seconds[most] = sum(record["seconds"] for record in read_records(run.output / f"max-loras-{most}"))
    share = equal_share(*(read_outputs(run.output / f"max-loras-{most}") for most in (1, 2)))
    found = f"{seconds[2] / seconds[1]:.2f} times those of one model after the other"
    return [
        judged(names[0], f"{LEAST_EQUAL:.0%} equal", f"{share:.1%} equal", share >= LEAST_EQUAL),
        judged(names[1], "recorded", found, True),
    ]


def repeated(run: CheckRun) -> list[CheckRow]:
    """Repeat a run of vLLM, as it is and with answers that do not depend on the batch."""
    names = ("the same run twice", "batch-invariant run twice")
    if run.short:
        return [not_run(name, "in the long form", "short form") for name in names]
    plain, first = _twice(run, "plain", {})
    rows = [judged(names[0], "recorded", f"{plain:.1%} equal", plain > 0)]
    if not run.gpu:
        return [*rows, not_run(names[1], "100% equal", "no GPU")]
    invariant, second = _twice(run, "invariant", {"VLLM_BATCH_INVARIANT": "1"})
    found = f"{invariant:.1%} equal, {second / first:.2f} times as long"
    return [*rows, judged(names[1], "100% equal", found, invariant == 1)]


def _twice(run: CheckRun, name: str, environment: Mapping[str, str]) -> tuple[float, float]:
    """Return the share of equal outputs of two runs, and the seconds of the second."""
    tasks, limit = tasks_of(run)
    for number in (1, 2):
        folder = run.output / f"{name}-{number}"
        done = run.midalign(
            *eval_words(run.adapters(), tasks, limit, "vllm", folder), environment=environment
        )
        if done.status != 0:
            raise RuntimeError(done.last_line)
    first, second = (read_outputs(run.output / f"{name}-{number}") for number in (1, 2))
    return equal_share(first, second), done.seconds


REJECTED: dict[str, dict[str, Any]] = {
    "r = 1,024": {"r": 1024},
    "rank_pattern": {"r": 8, "rank_pattern": {"q_proj": 1024}},
    "DoRA": {"r": 8, "use_dora": True},
}


def rejected_adapters(run: CheckRun) -> list[CheckRow]:
    """Score adapters that vLLM does not serve: an error of one screen, before the engine starts."""
    expected = "an error of one screen"
    if not run.gpu:
        reason = "no GPU: on a CPU, adapters are merged"
        return [
            not_run("r = 300", "status 0", reason),
            *(not_run(name, expected, reason) for name in REJECTED),
        ]
    rows = []
    for name, settings in {"r = 300": {"r": 300}, **REJECTED}.items():
        with tempfile.TemporaryDirectory() as folder:
            write_adapter(Path(folder, "adapter"), settings)
            words = eval_words(
                [Path(folder, "adapter")], "midalign_mini_slot_en", 2, "vllm", Path(folder, "results")
            )
            done = run.midalign(*words)
        found = f"status {done.status}, {done.seconds:.0f} s: {done.last_line}"
        lines = len(done.stderr.strip().splitlines())
        refused = done.status == 1 and "Traceback" not in done.stderr and lines <= MOST_LINES
        rows.append(
            judged(name, "status 0", found, done.status == 0)
            if name == "r = 300"
            else judged(name, expected, found, refused)
        )
    return rows


def write_adapter(folder: Path, settings: Mapping[str, Any], seed: int = 0) -> None:
    """Write an adapter of the bundled base with random weights, large enough to change answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from midalign import bases

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(bases.resolve("mini"))
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], **settings))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(str(folder))


def constrained(run: CheckRun) -> list[CheckRow]:
    """Decode under grammars: every answer that was not cut off is well-formed."""
    if run.short:
        return [not_run("constrained", "100% well-formed", "short form")]
    folder = run.output / "constrained"
    words = eval_words(
        run.adapters()[:1], "midalign_mini_json,midalign_mini_slot", 20 if run.gpu else 3, "vllm", folder
    )
    done = run.command(sys.executable, "-c", PEAK, sys.executable, "-m", "midalign", *words, "--constrained")
    if done.status != 0:
        return [judged("constrained", "status 0", done.stderr.strip().splitlines()[-2], False)]
    ended = broken = 0
    for file in folder.glob("*.outputs.jsonl"):
        for row in map(json.loads, file.read_text("utf-8").splitlines()):
            if row["finish"] != "length" and "json" in row["task"]:
                ended += 1
                broken += not _is_json(row["output"])
    for record in read_records(folder):
        for task in record["tasks"].values():
            if task["family"] == "slot":
                ended += task["n"] - task["cut_off"]
                broken += max(0, task["n"] - task["counts"]["well_formed"] - task["cut_off"])
    gigabytes = int(done.last_line) / 1e6
    return [
        judged("constrained", "0 malformed", f"{broken} malformed of {ended}", ended > 0 and broken == 0),
        judged("memory of constrained runs", "recorded", f"{gigabytes:.1f} GB at most in a process", True),
    ]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def interrupted(run: CheckRun) -> list[CheckRow]:
    """Kill an evaluation after its first finished tasks: the same command finishes without repeating one."""
    if run.short:
        return [not_run("killed run", "finishes, repeats no task", "short form")]
    tasks, _ = tasks_of(run)
    folder = run.output / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    words = eval_words(run.adapters(), tasks, 300 if run.gpu else 20, "vllm", folder)
    process = run.start(sys.executable, "-m", "midalign", *words)
    while process.poll() is None and not _parts(folder) and time.monotonic() < run.deadline:
        time.sleep(0.05)
    if process.poll() is not None:
        return [judged("killed run", "killed", "ended before the first task was finished", False)]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = _parts(folder)
    process, again = run.start(sys.executable, "-m", "midalign", *words), set[str]()
    while process.poll() is None and time.monotonic() < run.deadline:
        now = _parts(folder)
        again |= {name for name in before if name in now and now[name] != before[name]}
        time.sleep(0.2)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = f"status {process.returncode}, {len(again)} of {len(before)} finished tasks repeated"
    complete = process.returncode == 0 and len(read_records(folder)) == 3
    return [judged("killed run", "finishes, repeats no task", found, complete and not again)]


def _parts(folder: Path) -> dict[str, int]:
    """Return the finished tasks with the times they were written."""
    parts = {}
    for file in folder.glob(".partial/*/midalign_*.json"):
        try:
            parts[f"{file.parent.name}/{file.name}"] = file.stat().st_mtime_ns
        except FileNotFoundError:  # the run has just finished
            continue
    return parts
