"""Devices of this machine, their memory, and the dtypes that they compute in."""

import ctypes
import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch

Dtype = Literal["bfloat16", "float32"]

_FIXED: ContextVar[Dtype | None] = ContextVar("_FIXED", default=None)
"""The dtype of `fixed_dtype`."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Constants of malloc.h."""

LARGEST_KEPT = 32 * 2**20
"""Bytes of the largest tensor whose memory is kept, the most that glibc allows for `M_MMAP_THRESHOLD`."""

log = logging.getLogger(__name__)


def device() -> str:
    """Return the first of `cuda`, `mps` and `cpu` that is available."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def devices() -> list[str]:
    """Return every GPU, such as `cuda:0` and `cuda:1`, or the only device."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())] or [device()]


def gpu_name() -> str | None:
    """Return the name of the GPU, of several that of each kind. None without a GPU of CUDA."""
    if not torch.cuda.is_available():
        return None
    return ", ".join(sorted({torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}))


def free_memory() -> None:
    """Give the GPU the memory that finished models have left, for another process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """Let glibc keep memory that tensors on a CPU have freed instead of returning it to Linux.

    Linux fills each new page with zeros, a tenth of a training step (scripts/benchmarks/train_step.py).
    Larger tensors are returned: the logits of a large vocabulary differ in size in each step, and kept memory
    of such sizes fragments until the process holds a multiple of what it uses.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def has_bf16() -> bool:
    """Return whether the device multiplies bf16 matrices in hardware. Emulation is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    mkldnn = torch.backends.mkldnn.is_available()
    return mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fast_dtype() -> Dtype:
    """Return the dtype in which the device multiplies matrices fastest, or that of `fixed_dtype`."""
    return _FIXED.get() or ("bfloat16" if has_bf16() else "float32")


@contextmanager
def fixed_dtype(dtype: Dtype) -> Iterator[None]:
    """Compute in `dtype`, to repeat a run of a machine with another fast dtype."""
    token = _FIXED.set(dtype)
    try:
        yield
    finally:
        _FIXED.reset(token)


def training_dtype(wanted: Literal["auto"] | Dtype) -> Dtype:
    """Return the dtype of matrix products in training for a recipe's `dtype`.

    Warns of a dtype that is slow on the device.
    """
    if wanted == "auto":
        return fast_dtype()
    if wanted != fast_dtype():
        log.warning(
            "Training in %s. This machine is faster in %s, but weights would differ", wanted, fast_dtype()
        )
    return wanted
