"""What processes that train together tell each other, and what their launcher sets."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from midalign.device import device


def join_launch() -> None:
    """Meet the other processes of a launch, where there are any."""
    from accelerate import PartialState

    # Under FSDP the other processes would otherwise begin with empty weights, on which packing is then tried.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    # Block by block, unless the launch says otherwise: by default accelerate gathers the whole model at once.
    os.environ.setdefault("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    PartialState(cpu=device() == "cpu")


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    """Every process's rows; their gradients go home, summed over the processes that used them."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.size = len(own)
        everyones = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(everyones, own.contiguous())
        return torch.cat(everyones)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[process_rank() * ctx.size : (process_rank() + 1) * ctx.size]


def gather_rows(own: Tensor) -> Tensor:
    """Return the rows of all processes in order, with gradients.

    All processes hold the same number of rows.
    """
    return own if world_size() == 1 else _Gather.apply(own)  # type: ignore[no-untyped-call]


def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their sums over the processes, in one message a dtype."""
    if world_size() == 1:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in alike])
        dist.all_reduce(flat)
        for tensor, total in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            tensor.copy_(total.view_as(tensor))


@contextmanager
def without_launchers_precision() -> Iterator[None]:
    """Remove what `accelerate launch --mixed_precision` set, which TrainingArguments would follow."""
    name = "ACCELERATE_MIXED_PRECISION"
    launched = os.environ.pop(name, None)
    try:
        yield
    finally:
        if launched is not None:
            os.environ[name] = launched
