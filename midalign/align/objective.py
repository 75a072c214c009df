"""The alignment objective on pooled states, and what keeps the tokens of a sentence apart."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from midalign.align.pooling import mean_pool


def centre(states: Tensor) -> Tensor:
    """Pooled states (batch, hidden) minus their mean over the batch, which holds what all sentences share."""
    return states - states.mean(0, keepdim=True)


def info_nce(anchors: Tensor, candidates: Tensor, *, temperature: float, symmetric: bool) -> Tensor:
    """InfoNCE over cosine similarities: row i of `anchors` belongs to row i of `candidates`.

    Args:
        anchors, candidates: (batch, hidden) pooled states; all other rows of the batch are negatives.
        temperature: divisor of the cosines.
        symmetric: mean of both directions; False is Eq. 1 of Liu and Niehues 2025, anchors to candidates.

    Returns:
        A scalar, fp32. Cosines and softmax leave autocast: near 1 bf16 has steps of 1/128 and candidates tie.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        rows, columns = F.normalize(anchors.float(), dim=-1), F.normalize(candidates.float(), dim=-1)
        similarity = rows @ columns.T / temperature
        target = torch.arange(len(similarity), device=similarity.device)
        loss = F.cross_entropy(similarity, target)
        return (loss + F.cross_entropy(similarity.T, target)) / 2 if symmetric else loss


def token_preservation(states: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """How far tokens moved within their sentence, as a share of the reference's own variance.

    Each token's state minus its sentence's mean is compared with the same of the base: the sentence may move
    as a whole, which alignment wants, while its tokens stay as different from each other as they were.

    Args:
        states, reference: (batch, tokens, hidden) with and without the adapter.
        mask: (batch, tokens), 1 for tokens that count.

    Returns:
        A scalar, fp32: squared deviation over the squared norm of the reference's own deviations.
    """
    with torch.autocast(states.device.type, enabled=False):
        weights = mask.unsqueeze(-1).float()
        own = (states.float() - mean_pool(states, mask).unsqueeze(1)) * weights
        base = (reference.float() - mean_pool(reference, mask).unsqueeze(1)) * weights
        return (own - base).square().sum() / base.square().sum().clamp(min=1e-12)
