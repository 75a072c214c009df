"""`--dry-run`: show data and samples, and measure time and memory per update."""

import ctypes
import gc
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from midalign import harness
from midalign.train.recipe import Recipe
from midalign.train.run import training_runs

if TYPE_CHECKING:
    from midalign.train.build import Arm

CLEAR = Path("/proc/self/clear_refs")
"""Writing 5 to this file makes Linux reset the peak."""

LIBRARIES = 900_000_000
"""Bytes of a CPU process that has loaded torch and transformers and no model."""

PROBE = 5
"""Number of updates to train. The first is not timed."""

SHOWN = 3
"""Number of samples to print in full."""


def preview(recipe: Recipe, arms: Collection[str] | None = None) -> Iterator[str]:
    """Yield the lines of a dry run: load the base, train `arms` for a few updates and save nothing.

    Args:
        recipe: The recipe.
        arms: Names of arms, None for all.

    Raises:
        RecipeError: The recipe lacks one of the arms.
    """
    from midalign.train.recipe_checks import check_roles

    check_roles(recipe)
    for number, arm in enumerate(dict.fromkeys(arm for arm, _, _ in training_runs(recipe, arms))):
        with tempfile.TemporaryDirectory() as folder:
            yield from _preview_arm(recipe, arm, Path(folder), samples=number == 0)


def _preview_arm(recipe: Recipe, name: str, folder: Path, samples: bool) -> Iterator[str]:
    from midalign.train.build import build_arm

    arm = build_arm(recipe, name, recipe.seeds[0], folder)
    if samples:
        yield from _data(arm)
    align = arm.align
    yield f"\narm {name}: {len(arm.stream.plan)} updates" + (
        f", aligned after block {', '.join(map(str, arm.layers))}" if align else ""
    )
    if arm.stream.aligned is not None:
        pairs = zip(recipe.aligned, arm.stream.aligned.pairs, strict=True)
        yield "  pairs per language: " + ", ".join(f"{language} {len(group):,}" for language, group in pairs)
        if align is not None and align.context == "prompt":
            foreign = arm.stream.aligned.draw(recipe.seeds[0], 0)[0].foreign
            yield f"  aligned prompt: {arm.tokens.tokenizer.decode(arm.stream.task.prompt_ids(foreign))!r}"
    yield from _probe(arm)


def _data(arm: "Arm") -> Iterator[str]:
    """Yield lines on samples per language and tokens per sample, and a few samples in full."""
    task = arm.stream.task
    names = {id(entry): name for name, entry in task.tasks.items()}
    languages = Counter("-".join(harness.task_languages(names[id(entry)])) for entry, _ in task.every)
    counts = ", ".join(f"{language} {count:,}" for language, count in languages.items())
    yield f"task samples: {counts}"
    samples = [task[position] for position in range(0, len(task), max(len(task) // 500, 1))]
    lengths = sorted(len(sample.prompt) + len(sample.target) for sample in samples)
    answers = statistics.mean(len(sample.target) for sample in samples)
    cut = sum(1 for sample in samples if sample.cut)
    yield (
        f"tokens per sample ({len(samples)} samples): mean {statistics.mean(lengths):.0f}, "
        f"95th percentile {lengths[len(lengths) * 19 // 20]}, longest {lengths[-1]}"
    )
    yield (
        f"tokens with a loss (the answers): mean {answers:.0f} per sample. "
        f"{cut} samples truncated to max_tokens={arm.recipe.max_tokens}"
    )
    decode = arm.tokens.tokenizer.decode
    for number in range(SHOWN):
        sample = task[number * (len(task) - 1) // (SHOWN - 1)]
        yield f"\nsample {number + 1} (the loss is on the text between >>> and <<<):"
        yield f"{decode(sample.prompt)}>>>{decode(sample.target)}<<<"


def _probe(arm: "Arm") -> Iterator[str]:
    """Train for PROBE updates and yield lines on FLOPs, time and memory."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    trainer, stream = arm.trainer, arm.stream
    model = trainer.accelerator.prepare(trainer.model)
    optimizer = trainer.create_optimizer()
    expected = _memory(arm)
    seconds = []
    counter = FlopCounterMode(display=False)
    _forget_peak()
    for update in range(min(PROBE, len(stream))):
        start = time.perf_counter()
        with counter if update == 0 else nullcontext():
            trainer.training_step(model, stream[update])
        torch.nn.utils.clip_grad_norm_(trainer.trained_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    typical = statistics.median(seconds[1:] or seconds)
    trained = sum(p.numel() for p in trainer.trained_parameters())
    yield f"  {trained:,} trainable weights, {counter.get_total_flops() / 1e12:.3g} TFLOP per update"
    seeds = len(arm.recipe.seeds)
    one_seed = typical * len(stream.plan)
    yield f"  {typical:.2f} s per update: about {_duration(one_seed)} per seed" + (
        f", {_duration(one_seed * seeds)} for {seeds} seeds" if seeds > 1 else ""
    )
    measured = _peak()
    error = 100 * (expected / measured - 1)
    yield f"  memory: {expected / 1e9:.1f} GB estimated, {measured / 1e9:.1f} GB measured ({error:+.0f}%)"


def _forget_peak() -> None:
    """Reset the peak of memory, so that loading does not count. On CPUs this needs Linux."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if release is not None:
            release(0)  # glibc keeps memory that an earlier arm has freed
        CLEAR.write_text("5")


def _peak() -> int:
    """Return the peak memory in bytes: of the GPU if there is one, otherwise of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if CLEAR.exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _memory(arm: "Arm") -> float:
    """Estimate the memory of an update, in bytes.

    It is the sum of weights, gradients and both Adam moments of the trained weights, and of the activations
    of the largest forward pass. Activations per block were counted on Gemma 3 and Llama with adapters: 24
    states of the hidden size in fp32 (norms and copies by autocast), ten of the inner size and, without fused
    attention, ten scores for every pair of tokens in a row.
    """
    import torch

    trainer = arm.trainer
    config = trainer.model.config.get_text_config()
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    if trainer.head is not None and trainer.args.bf16:
        weights += 2 * trainer.head.numel()  # a half-precision copy of the shared embeddings
    trained = sum(p.numel() * 12 for p in trainer.trained_parameters())
    batches = [arm.stream[update] for update in range(min(PROBE, len(arm.stream)))]
    parts = [u["answers"] for u in batches if "answers" in u] + [
        p["rows"] for u in batches for p in u["pairs"]
    ]
    rows, width = max((part["input_ids"].shape for part in parts), key=lambda shape: shape[0] * shape[1])
    tokens = min(rows * width, arm.recipe.max_batch_tokens or rows * width)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    each = 2 if trainer.args.bf16 else 4
    block = 4 * 24 * config.hidden_size + each * 10 * inner
    if not torch.cuda.is_available():
        block += 10 * each * config.num_attention_heads * width
    blocks = 1 if arm.recipe.recompute else config.num_hidden_layers
    head = 128 * config.vocab_size * 10  # the chunk's logits, their softmax and residual
    system = 0 if torch.cuda.is_available() else LIBRARIES
    return float(weights + trained + tokens * block * blocks + head + system)


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{max(minutes, 1)} min"
