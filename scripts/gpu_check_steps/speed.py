"""Gemma 3 270M on MASSIVE in both engines, and a training step of the size of 8B parameters."""

import sys
import tempfile
import time
from pathlib import Path

from gpu_check_steps.checking import (
    ROOT,
    CheckRow,
    CheckRun,
    equal_share,
    eval_words,
    judged,
    not_run,
    read_outputs,
    read_records,
)

LIMIT = 100
"""Items per language of MASSIVE."""
PLAIN_ITEMS, PLAIN_TASKS = 20, ("midalign_slot_en", "midalign_slot_sw", "midalign_slot_ja")

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
"""Llama 3 8B."""


def _missing(run: CheckRun) -> str:
    if not run.gpu:
        return "no GPU"
    if run.gemma is None or not (run.gemma / "config.json").exists():
        return "no Gemma: ../shared/tools/real-base gemma FOLDER, then --gemma FOLDER"
    return ""


def _gemma_adapters(run: CheckRun) -> list[Path]:
    return sorted(file.parent for file in run.output.glob("gemma/adapters/*/adapter_config.json"))


def gemma_training(run: CheckRun) -> list[CheckRow]:
    """Train two adapters of Gemma on MASSIVE for a few updates."""
    if reason := _missing(run):
        return [not_run("Gemma on MASSIVE, training", "two adapters", reason)]
    shared = ROOT.parent / "shared" / "data"
    if (shared / "massive").is_dir():
        run.midalign("data", "add", "massive", shared / "massive")
    form = [
        f"base={run.gemma}",
        "seeds=[1]",
        "updates=150",
        "arms={baseline: null, aligned: {pairs: massive}}",
        "evaluate=false",
        f"output={run.output / 'gemma'}",
    ]
    done = run.command(sys.executable, "-m", "midalign.train", "massive-gemma", *form)
    found = f"{len(_gemma_adapters(run))} adapters, {done.seconds:.0f} s: {done.last_line}"
    return [judged("Gemma on MASSIVE, training", "two adapters", found, len(_gemma_adapters(run)) == 2)]


def gemma_vllm(run: CheckRun) -> list[CheckRow]:
    """Score Gemma and its adapters in 52 languages by vLLM."""
    return _gemma_engine(run, "vllm")


def gemma_hf(run: CheckRun) -> list[CheckRow]:
    """Score the same by Hugging Face, and compare the two."""
    rows = _gemma_engine(run, "hf")
    if rows[0].status != "pass" or not read_records(run.output / "gemma-vllm"):
        return rows
    share = equal_share(read_outputs(run.output / "gemma-vllm"), read_outputs(run.output / "gemma-hf"))
    outside, total = 0, 0
    for first, second in zip(
        read_records(run.output / "gemma-vllm"), read_records(run.output / "gemma-hf"), strict=True
    ):
        for task, result in first["tasks"].items():
            one, other = result["metrics"]["f1"], second["tasks"][task]["metrics"]["f1"]
            total += 1
            outside += (
                abs(one["value"] - other["value"]) > 1.96 * (one["stderr"] ** 2 + other["stderr"] ** 2) ** 0.5
            )
    seconds = [
        sum(record["seconds"] for record in read_records(run.output / f"gemma-{engine}"))
        for engine in ("vllm", "hf")
    ]
    return [
        *rows,
        judged(
            "Gemma, scores of both engines",
            "within intervals",
            f"{outside} of {total} outside",
            outside <= 0.05 * total,
        ),
        judged("Gemma, outputs of both engines", "recorded", f"{share:.1%} equal", share > 0),
        judged(
            "Gemma, seconds of answers",
            "recorded",
            f"hf takes {seconds[1] / seconds[0]:.1f} times as long",
            True,
        ),
    ]


def _gemma_engine(run: CheckRun, engine: str) -> list[CheckRow]:
    name = f"Gemma on MASSIVE, {engine}"
    if reason := _missing(run):
        return [not_run(name, "3 records", reason)]
    folder = run.output / f"gemma-{engine}"
    words = eval_words(_gemma_adapters(run), "midalign_slot", LIMIT, engine, folder, base=run.gemma)
    done = run.midalign(*words, "--note", "dequantised from Q4_K_M")
    found = f"{len(read_records(folder))} records, {done.seconds:.0f} s: {done.last_line}"
    return [judged(name, "3 records", found, done.status == 0 and len(read_records(folder)) == 3)]


def plain_lm_eval(run: CheckRun) -> list[CheckRow]:
    """Compare one engine for three models with three plain runs of lm-eval."""
    name, expected = "against plain lm-eval", "recorded"
    if reason := _missing(run):
        return [not_run(name, expected, reason)]
    script = ROOT / "scripts" / "benchmarks" / "one_engine.py"
    words = [
        "--engine",
        "vllm",
        "bfloat16",
        run.gemma,
        *_gemma_adapters(run),
        "--",
        *PLAIN_TASKS,
        PLAIN_ITEMS,
    ]
    done = run.command(sys.executable, script, *words)
    return [judged(name, expected, done.last_line if done.status else done.stdout.strip(), done.status == 0)]


def training_step(run: CheckRun) -> list[CheckRow]:
    """Measure midalign's update on a random Llama against a large matrix product of the same device.

    On a CPU, on the bundled base, to see that it runs.
    """
    name, expected = "training step", "share of a matrix product recorded"
    if run.short:
        return [not_run(name, expected, "short form")]
    sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))
    import torch
    import train_step
    from torch.utils.flop_counter import FlopCounterMode

    with tempfile.TemporaryDirectory() as folder:
        base = write_large_base(Path(folder)) if run.gpu else "mini"
        steps = train_step.ours(train_step.settings(str(base), "mini", "aligned"))
        next(steps)
        counter = FlopCounterMode(display=False)
        with counter:
            next(steps)
        seconds = []
        for _ in range(5):
            _synchronise()
            start = time.perf_counter()
            next(steps)
            _synchronise()
            seconds.append(time.perf_counter() - start)
        steps.close()
    update = sorted(seconds)[2]
    speed, peak = counter.get_total_flops() / update, matrix_product_speed(8192 if run.gpu else 1024)
    held = torch.cuda.max_memory_allocated() / 1e9 if run.gpu else 0.0
    found = (
        f"{update:.2f} s, {speed / 1e12:.3g} of {peak / 1e12:.3g} TFLOP/s ({speed / peak:.0%}), {held:.0f} GB"
    )
    reference = "scripts/benchmarks/train_step.py runs the reference's way on CPUs only"
    return [
        judged(name, expected, found, True),
        not_run("against the reference's way", "recorded", reference),
    ]


def write_large_base(folder: Path) -> Path:
    """Write a random Llama of 8B parameters in bf16, with the tokenizer of the bundled base."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from midalign import bases

    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(str(folder))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.cuda.empty_cache()
    AutoTokenizer.from_pretrained(bases.resolve("mini")).save_pretrained(str(folder))
    return folder


def matrix_product_speed(size: int) -> float:
    """Return FLOP/s of a product of two bf16 matrices, the best of ten."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        _synchronise()
        start = time.perf_counter()
        left @ right
        _synchronise()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def _synchronise() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
