"""The GPU memory that vLLM may use, and what holds the rest."""

import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from midalign.errors import EngineError, first_line

GIB = 2**30

RESERVE = 1 * GIB
"""Bytes that stay free: the CUDA contexts of vLLM's processes, and NCCL's buffers, are allocated between our
measurement and that of vLLM (init_device in vllm/v1/worker/gpu_worker.py)."""

LARGEST_SHARE = 0.92
"""vLLM's default (vllm/config/cache.py), which leaves room for what its profile does not see."""

SMALLEST_SHARE = 0.01


class GpuMemory(NamedTuple):
    """Bytes of one GPU."""

    free: int
    total: int


def measured_gpus(settings: Mapping[str, Any]) -> int:
    """Return the number of GPUs whose free memory decides vLLM's share. 0 if its settings or a CPU do."""
    from midalign.device import device

    given = {"gpu_memory_utilization", "kv_cache_memory_bytes"} & settings.keys()
    return 0 if given or device() != "cuda" else int(settings.get("tensor_parallel_size", 1))


def gpu_memory(gpus: int) -> list[GpuMemory]:
    """Return the memory of the first GPUs."""
    import torch

    return [GpuMemory(*torch.cuda.mem_get_info(number)) for number in range(gpus)]


def memory_share(gpus: int, reserve: int = RESERVE) -> float:
    """Return the `gpu_memory_utilization` for the first GPUs: what is free on the fullest, less `reserve`.

    vLLM does not start if its share of the total memory is not free. Raises EngineError if none is free.
    """
    share = min((memory.free - reserve) / memory.total for memory in gpu_memory(gpus))
    share = math.floor(100 * min(share, LARGEST_SHARE)) / 100
    if share < SMALLEST_SHARE:
        raise EngineError(
            "\n".join(
                [
                    "There is no free GPU memory for vLLM.",
                    *describe_memory(gpus),
                    "End the processes that hold it, or choose another GPU with CUDA_VISIBLE_DEVICES",
                ]
            )
        )
    return share


@contextmanager
def reported_out_of_memory() -> Iterator[None]:
    """Raise EngineError with what holds the memory of the first GPU if torch finds none left."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EngineError(
            "\n".join(
                [
                    f"torch ran out of GPU memory: {first_line(error)}",
                    *describe_memory(min(1, torch.cuda.device_count())),
                    "Base and adapters are proved on one GPU, with --engine vllm too. End the processes that "
                    "hold memory, or choose another GPU with CUDA_VISIBLE_DEVICES",
                ]
            )
        ) from error


def describe_memory(gpus: int) -> list[str]:
    """Return lines about the free memory of the first GPUs, and about the processes that hold memory."""
    lines = [
        f"GPU {number}: {memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB are free"
        for number, memory in enumerate(gpu_memory(gpus))
    ]
    holders = memory_holders()
    return [*lines, *(f"Process {holder}" for holder in holders)]


def memory_holders() -> list[str]:
    """Return process id, name and memory of processes on all GPUs, as far as nvidia-smi sees them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = "--query-compute-apps=pid,process_name,used_memory"
    try:
        done = subprocess.run(
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if not done.returncode else []
