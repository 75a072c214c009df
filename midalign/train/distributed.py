"""Collectives for distributed training (no-ops in a single process), and settings of launchers."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from midalign.device import device


def join_launch() -> None:
    """Join the other processes of a launch, if there are any."""
    from accelerate import PartialState

    # FSDP would otherwise load weights in the main process only, and the others would test packing on empty
    # weights.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    # Gather weights per block unless the launch says otherwise. accelerate's default is the whole model.
    os.environ.setdefault("FSDP_AUTO_WRAP_POLICY", "TRANSFORMER_BASED_WRAP")
    PartialState(cpu=device() == "cpu")


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


class _Gather(torch.autograd.Function):
    """All-gather of rows. The gradient of a row is summed over processes and returned to its owner."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.size = len(rows)
        of_all = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(of_all, rows.contiguous())
        return torch.cat(of_all)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[process_rank() * ctx.size : (process_rank() + 1) * ctx.size]


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows of all processes in order, with gradients.

    Every process must hold the same number of rows.
    """
    return rows if world_size() == 1 else _Gather.apply(rows)  # type: ignore[no-untyped-call]


def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their sums over processes, in one collective per dtype."""
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
    """Remove, for now, the variable of `accelerate launch --mixed_precision`.

    TrainingArguments would follow it instead of the recipe.
    """
    name = "ACCELERATE_MIXED_PRECISION"
    launched = os.environ.pop(name, None)
    try:
        yield
    finally:
        if launched is not None:
            os.environ[name] = launched
