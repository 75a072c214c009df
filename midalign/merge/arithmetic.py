"""Combine the weighted changes of one module, and measure the error."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from midalign.errors import AdapterError
from midalign.merge.source import LoraChange
from midalign.merge.weights import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

PROBES = 8
"""Random inputs of a module on which a merge is compared with the weighted sum of the changes."""


def combine_changes(
    module: str,
    changes: Sequence[tuple[LoraChange, float]],
    method: MergeMethod,
    rank: int | None,
    density: float,
) -> LoraChange:
    """Return the combination of one module's weighted changes."""
    import torch

    target_rank = rank or max(len(change.a) for change, _ in changes)

    # cat and svd: stack the factors, (ranks, inputs) and (outputs, ranks). Their product is the exact sum.
    if method in ("cat", "svd"):
        a = torch.cat([change.a for change, _ in changes])
        b = torch.cat([change.b * (weight * change.scaling) for change, weight in changes], dim=1)
        if method == "cat":
            return LoraChange(a, b)
        # The SVD of a product of thin matrices follows from the small matrix between their QR factors.
        left, upper = torch.linalg.qr(b)
        right, lower = torch.linalg.qr(a.T)
        u, s, vh = torch.linalg.svd(upper @ lower.T)
        return _of_svd(left @ u, s, vh @ right.T, target_rank)

    # linear: add the factors.
    if method == "linear":
        if len({len(change.a) for change, _ in changes}) > 1:
            raise AdapterError(f"linear adds factors, and those of {module} differ in rank. Use cat or svd")
        scales = [weight * change.scaling for change, weight in changes]
        # As in peft, each factor is scaled by the square root, and A takes the sign of a negative weight.
        a = torch.stack(
            [c.a * math.copysign(abs(t) ** 0.5, t) for (c, _), t in zip(changes, scales, strict=True)]
        )
        b = torch.stack([c.b * abs(t) ** 0.5 for (c, _), t in zip(changes, scales, strict=True)])
        return LoraChange(a.sum(0), b.sum(0))

    # ties and dare: drop entries of the whole changes, then approximate with low rank.
    from peft.utils import merge_utils

    sparse: Callable[..., Tensor] = getattr(merge_utils, method)
    whole = [c.scaling * c.b @ c.a for c, _ in changes]
    mixed = sparse(whole, torch.tensor([weight for _, weight in changes]), density)
    u, s, v = torch.svd_lowrank(mixed, min(2 * target_rank + 8, *mixed.shape), niter=8)
    return _of_svd(u, s, v.T, target_rank)


def _of_svd(u: "Tensor", s: "Tensor", vh: "Tensor", rank: int) -> LoraChange:
    root = s[:rank].sqrt()
    return LoraChange(root.unsqueeze(1) * vh[:rank], u[:, :rank] * root)


def deviation(changes: Sequence[tuple[LoraChange, float]], merged: LoraChange) -> float:
    """Return `MergedAdapter.error` of one module."""
    import torch

    inputs = torch.randn(merged.a.shape[1], PROBES)
    parts = [weight * change.scaling * (change.b @ (change.a @ inputs)) for change, weight in changes]
    expected = torch.stack(parts).sum(0)
    outputs = merged.b @ (merged.a @ inputs)
    return float((outputs - expected).norm() / expected.norm().clamp(min=1e-12))
