"""Pool the states of a sentence's tokens into one vector."""

import torch
from torch import Tensor

from midalign.align.rows import SHARED


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens that `mask` keeps, at least in fp32.

    Args:
        states: (batch, tokens, hidden), any float dtype.
        mask: (batch, tokens), 1 for tokens that count. A row of zeros gives a zero vector.

    Returns:
        (batch, hidden), fp32 or fp64: sums of bf16 states lose the differences between sentences.
    """
    precise = states.to(torch.promote_types(states.dtype, torch.float32))
    weights = mask.unsqueeze(-1).to(precise.dtype)
    return (precise * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def mean_by_owner(states: Tensor, owner: Tensor, kept: Tensor, sentences: int) -> Tensor:
    """Return `mean_pool` of sentences laid out in rows.

    Args:
        states: (rows, width, hidden), any float dtype.
        owner: (rows, width): the sentence of each token, SHARED or PADDING.
        kept: (rows, width), True for tokens that count. A shared token counts for all sentences of its row.

    Returns:
        (sentences, hidden), fp32 or fp64. Zero vectors for sentences without tokens in the rows.
    """
    precise = states.to(torch.promote_types(states.dtype, torch.float32))
    mask = kept & (owner >= 0)
    total = precise.new_zeros(sentences, states.shape[2]).index_add(0, owner[mask], precise[mask])
    count = precise.new_zeros(sentences).index_add(0, owner[mask], precise.new_ones(int(mask.sum())))
    shared = kept & (owner == SHARED)
    if shared.any():
        row, sentence = _members(owner)
        total = total.index_add(0, sentence, (precise * shared.unsqueeze(-1)).sum(1)[row])
        count = count.index_add(0, sentence, shared.sum(1).to(count.dtype)[row])
    return total / count.clamp(min=1.0).unsqueeze(1)


def last_by_owner(states: Tensor, owner: Tensor, sentences: int) -> Tensor:
    """Return the state of each sentence's last token, (sentences, hidden), at least in fp32."""
    flat = owner.flatten()
    index = torch.arange(len(flat), device=owner.device)
    last = torch.zeros(sentences, dtype=torch.long, device=owner.device)
    last = last.scatter_reduce(0, flat[flat >= 0], index[flat >= 0], "amax")
    precise = states.flatten(0, 1)[last]
    present = torch.zeros(sentences, dtype=torch.bool, device=owner.device)
    present[flat[flat >= 0]] = True
    return precise.to(torch.promote_types(states.dtype, torch.float32)) * present.unsqueeze(1)


def _members(owner: Tensor) -> tuple[Tensor, Tensor]:
    """Return (row, sentence) of every sentence that has a token in the rows."""
    rows = torch.arange(len(owner), device=owner.device).unsqueeze(1).expand_as(owner)
    mask = owner >= 0
    pairs = torch.stack([rows[mask], owner[mask]]).unique(dim=1)
    return pairs[0], pairs[1]
