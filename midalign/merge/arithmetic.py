"""One module's weighted changes in one, and how exact that is."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from midalign.errors import AdapterError
from midalign.merge.source import LoraChange
from midalign.merge.weights import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

PROBES = 8
"""Random inputs of a module on which a merge is held against the weighted sum of the changes."""


def combine_changes(
    module: str,
    own: Sequence[tuple[LoraChange, float]],
    method: MergeMethod,
    rank: int | None,
    density: float,
) -> LoraChange:
    """One module's weighted changes in one."""
    import torch

    chosen = rank or max(len(change.a) for change, _ in own)
    if method in ("cat", "svd"):
        a = torch.cat([change.a for change, _ in own])
        b = torch.cat([change.b * (weight * change.scaling) for change, weight in own], dim=1)
        if method == "cat":
            return LoraChange(a, b)
        # Of a product of thin matrices, from the small one between their orthogonal bases.
        left, upper = torch.linalg.qr(b)
        right, lower = torch.linalg.qr(a.T)
        u, s, vh = torch.linalg.svd(upper @ lower.T)
        return _of_svd(left @ u, s, vh @ right.T, chosen)
    if method == "linear":
        if len({len(change.a) for change, _ in own}) > 1:
            raise AdapterError(f"linear adds factors, and those of {module} differ in rank. Use cat or svd")
        total = [weight * change.scaling for change, weight in own]
        # Shared out evenly between the factors, as peft does it: a negative weight's sign goes to A.
        a = torch.stack([c.a * math.copysign(abs(t) ** 0.5, t) for (c, _), t in zip(own, total, strict=True)])
        b = torch.stack([c.b * abs(t) ** 0.5 for (c, _), t in zip(own, total, strict=True)])
        return LoraChange(a.sum(0), b.sum(0))
    from peft.utils import merge_utils

    sparse: Callable[..., Tensor] = getattr(merge_utils, method)
    whole = [c.scaling * c.b @ c.a for c, _ in own]
    mixed = sparse(whole, torch.tensor([weight for _, weight in own]), density)
    u, s, v = torch.svd_lowrank(mixed, min(2 * chosen + 8, *mixed.shape), niter=8)
    return _of_svd(u, s, v.T, chosen)


def _of_svd(u: "Tensor", s: "Tensor", vh: "Tensor", rank: int) -> LoraChange:
    root = s[:rank].sqrt()
    return LoraChange(root.unsqueeze(1) * vh[:rank], u[:, :rank] * root)


def deviation(own: Sequence[tuple[LoraChange, float]], merged: LoraChange) -> float:
    """`Merged.error` of one module."""
    import torch

    inputs = torch.randn(merged.a.shape[1], PROBES)
    parts = [weight * change.scaling * (change.b @ (change.a @ inputs)) for change, weight in own]
    expected = torch.stack(parts).sum(0)
    found = merged.b @ (merged.a @ inputs)
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))
