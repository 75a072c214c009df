"""The alignment objective on pooled states, and a penalty that keeps the tokens of a sentence apart."""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from midalign.align.pooling import mean_by_owner


def centre(states: Tensor) -> Tensor:
    """Remove the batch mean, which all sentences share, from states (batch, hidden)."""
    return states - states.mean(0, keepdim=True)


def info_nce(
    anchors: Tensor,
    candidates: Tensor,
    *,
    temperature: float | Tensor,
    symmetric: bool,
    same: Tensor | None = None,
) -> Tensor:
    """Return InfoNCE over cosine similarities. Row i of `anchors` belongs to row i of `candidates`.

    Args:
        anchors, candidates: (batch, hidden) pooled states; all other rows of the batch are negatives.
        temperature: divisor of the cosines. A tensor is trained.
        symmetric: mean of both directions. False is Eq. 1 of Liu and Niehues 2025, anchors to candidates.
        same: (batch, batch), True if pairs i and j have the same meaning, so that j is not a negative of i.

    Returns:
        A scalar, at least fp32. Cosines and softmax disable autocast: near 1, bf16 has steps of 1/128 and
        candidates would tie.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = _unit(anchors) @ _unit(candidates).T / temperature
        diagonal = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        if same is not None:
            similarity = similarity.masked_fill(same & ~diagonal, -torch.inf)
        target = torch.arange(len(similarity), device=similarity.device)
        loss = F.cross_entropy(similarity, target)
        return (loss + F.cross_entropy(similarity.T, target)) / 2 if symmetric else loss


def cosine_distance(anchors: Tensor, candidates: Tensor) -> Tensor:
    """Return the mean of 1 - cosine over pairs (batch, hidden).

    It has no negatives, so nothing keeps different sentences apart.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        return 1 - (_unit(anchors) * _unit(candidates)).sum(1).mean()


def squared_distance(anchors: Tensor, candidates: Tensor) -> Tensor:
    """Return the squared distance of pairs, relative to the mean squared norm of both sides.

    The norm gets no gradient. Norms differ by orders of magnitude between bases and layers, but the ratio
    does not.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        anchors, candidates = _precise(anchors), _precise(candidates)
        scale = (anchors.detach().square().sum(1) + candidates.detach().square().sum(1)).mean() / 2
        return (anchors - candidates).square().sum(1).mean() / scale.clamp(min=1e-12)


def stop_gradient(
    foreign: Tensor, english: Tensor, side: Literal["foreign", "english"] | None
) -> tuple[Tensor, Tensor]:
    """Return both sides, with one of them detached."""
    if side == "foreign":
        return foreign.detach(), english
    return (foreign, english.detach()) if side == "english" else (foreign, english)


def token_deviation(states: Tensor, reference: Tensor, owner: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far tokens moved within their sentence, and the variance of the reference.

    Each token's state minus its sentence's mean is compared with that of the base. So the sentence may move
    as a whole, as alignment requires, but its tokens must stay as different from each other as before. Token
    preservation is the first result divided by the second.

    Args:
        states, reference: (rows, width, hidden) with and without the adapter.
        owner: (rows, width), the sentence of each token, negative for tokens of no sentence.
        kept: (rows, width), True for tokens that count.

    Returns:
        Two scalars, at least fp32: squared deviations of the tokens, squared norms of the reference's.
    """
    with torch.autocast(states.device.type, enabled=False):
        kept = kept & (owner >= 0)
        sentence = owner[kept]
        sentences = int(sentence.max()) + 1 if len(sentence) else 0
        moved, base = (
            _precise(side)[kept] - mean_by_owner(side, owner, kept, sentences)[sentence]
            for side in (states, reference)
        )
        return (moved - base).square().sum(), base.square().sum()


def _precise(states: Tensor) -> Tensor:
    return states.to(torch.promote_types(states.dtype, torch.float32))


def _unit(states: Tensor) -> Tensor:
    return F.normalize(_precise(states), dim=-1)
