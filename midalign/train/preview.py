"""What a recipe would do: data, samples as the model sees them, and a few updates for time and memory."""

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
from midalign.train.run import runs

if TYPE_CHECKING:
    from midalign.train.build import Arm

PROBE = 5
"""Updates that are run, the first of them unmeasured."""

SHOWN = 3
"""Rendered samples."""


def preview(recipe: Recipe, arms: Collection[str] | None = None) -> Iterator[str]:
    """Lines to print. Loads the base, trains these arms, None for all, for a few updates and keeps nothing.

    Raises RecipeError for an arm that the recipe lacks.
    """
    from midalign.train.stream import check_roles

    check_roles(recipe)
    for number, arm in enumerate(dict.fromkeys(arm for arm, _, _ in runs(recipe, arms))):
        with tempfile.TemporaryDirectory() as folder:
            yield from _arm(recipe, arm, Path(folder), samples=number == 0)


def _arm(recipe: Recipe, name: str, folder: Path, samples: bool) -> Iterator[str]:
    from midalign.train.build import build

    arm = build(recipe, name, recipe.seeds[0], folder)
    if samples:
        yield from _data(arm)
    align = arm.align
    yield f"\narm {name}: {len(arm.stream.plan)} updates" + (
        f", aligned after block {', '.join(map(str, arm.layers))}" if align else ""
    )
    if arm.stream.aligned is not None:
        pairs = zip(recipe.aligned, arm.stream.aligned.pairs, strict=True)
        yield "  pairs to train on: " + ", ".join(f"{language} {len(own):,}" for language, own in pairs)
    yield from _probe(arm)


def _data(arm: "Arm") -> Iterator[str]:
    """Samples by language, their tokens, and the first few in full."""
    task = arm.stream.task
    names = {id(one): name for name, one in task.tasks.items()}
    languages = Counter("-".join(harness.task_languages(names[id(one)])) for one, _ in task.every)
    counts = ", ".join(f"{language} {count:,}" for language, count in languages.items())
    yield f"task samples: {counts}"
    some = [task[position] for position in range(0, len(task), max(len(task) // 500, 1))]
    lengths = sorted(len(sample.prompt) + len(sample.target) for sample in some)
    answers = statistics.mean(len(sample.target) for sample in some)
    cut = sum(1 for sample in some if sample.cut)
    yield (
        f"tokens a sample, of {len(some)} looked at: mean {statistics.mean(lengths):.0f}, "
        f"19 of 20 below {lengths[len(lengths) * 19 // 20]}, longest {lengths[-1]}; "
        f"{answers:.0f} of them supervised; {cut} cut at max_tokens={arm.recipe.max_tokens}"
    )
    decode = arm.tokens.tokenizer.decode
    for number in range(SHOWN):
        sample = task[number * (len(task) - 1) // (SHOWN - 1)]
        yield f"\nsample {number + 1}, what is learned between >>> and <<<:"
        yield f"{decode(sample.prompt)}>>>{decode(sample.target)}<<<"


def _probe(arm: "Arm") -> Iterator[str]:
    """FLOPs, seconds and memory of an update, and what they come to."""
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
    yield f"  {trained:,} weights train; an update takes {counter.get_total_flops() / 1e12:.3g} TFLOP"
    yield (
        f"  {typical:.2f} s an update here, so about {_duration(typical * len(stream.plan))} "
        f"for an arm and {_duration(typical * len(stream.plan) * len(arm.recipe.seeds))} for its seeds"
    )
    measured = _peak()
    error = 100 * (expected / measured - 1)
    yield f"  memory: {expected / 1e9:.1f} GB estimated, {measured / 1e9:.1f} GB measured ({error:+.0f}%)"


def _forget_peak() -> None:
    """Begin a new measurement of memory, without what loading took; on a CPU only Linux can."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if release is not None:
            release(0)  # glibc keeps what an earlier arm has given back
        CLEAR.write_text("5")


def _peak() -> int:
    """Bytes that the process, or the GPU, held at most."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if CLEAR.exists():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


CLEAR = Path("/proc/self/clear_refs")
"""Writing 5 here makes Linux measure the peak anew."""

LIBRARIES = 900_000_000
"""Bytes of a CPU process that has loaded torch and transformers and no model."""


def _memory(arm: "Arm") -> float:
    """Bytes: weights, gradients and both moments of what trains, and the activations of the largest forward.

    What a block keeps was counted on Gemma 3 and Llama under adapters: some 24 states of the hidden size in
    fp32 (norms and what autocast copies), ten of the inner size and, without fused attention, ten scores
    for every pair of tokens in a row.
    """
    import torch

    trainer = arm.trainer
    config = trainer.model.config.get_text_config()
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    if trainer.head is not None and trainer.args.bf16:
        weights += 2 * trainer.head.numel()  # in half precision beside the embeddings that it shares
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
