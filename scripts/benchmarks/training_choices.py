"""What two choices of the trainer are worth on this machine, as ratios of steps run in turn in one process.

1. attention: a task step of the mini base with torch's fused attention over one with the plain form;
2. head: the loss of 32 answers over a vocabulary of 262k, whole logits over the chunks of a frozen head.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from midalign.align.head import _FrozenHeadLoss
from midalign.device import has_bf16
from midalign.train.base_model import halve_linears, load_base


def ratio(first: Callable[[], None], second: Callable[[], None], times: int = 7) -> float:
    """Median of the seconds of `first` over those of `second`, in turn, after one unmeasured run of each."""
    ratios = []
    for _ in range(times + 1):
        seconds = []
        for step in (first, second):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios[1:])


def attention() -> float:
    """Fused over plain attention, forward and backward of 32 x 96 tokens."""
    model, _ = load_base("mini")
    model.requires_grad_(False)
    if has_bf16():
        halve_linears(model)
    embeddings = model.get_input_embeddings()(torch.randint(10, 8000, (32, 96)))

    def step(form: str) -> None:
        model.set_attn_implementation(form)
        states = embeddings.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            model(inputs_embeds=states, logits_to_keep=1).logits.sum().backward()

    return ratio(lambda: step("sdpa"), lambda: step("eager"))


def head() -> float:
    """Whole logits over chunks, for answers of 12 tokens on average in columns of 24."""
    dtype = torch.bfloat16 if has_bf16() else torch.float32
    weight = torch.randn(262_144, 640, dtype=dtype)
    states = torch.randn(32, 24, 640, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 262_144, (32, 24))
    labels[torch.rand(32, 24) < 0.5] = -100

    def whole() -> None:
        logits = (states @ weight.T).float()
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()

    def chunked() -> None:
        kept = labels != -100
        _FrozenHeadLoss.apply(states[kept], weight, labels[kept]).mean().backward()

    return ratio(whole, chunked, times=3)


if __name__ == "__main__":
    print(f"fused attention / plain attention, a step: {attention():.2f}")
    print(f"whole logits / chunked head, a loss: {head():.2f}")
