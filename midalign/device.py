"""What this machine computes on."""

import torch


def device() -> str:
    """`cuda`, `mps` or `cpu`, the first that works."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_bf16() -> bool:
    """Whether the device multiplies bf16 matrices in hardware: emulation is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    mkldnn = torch.backends.mkldnn.is_available()
    return mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
