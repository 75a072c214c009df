"""Pair retrieval: the share of sentences whose nearest candidate is their translation."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from midalign.align.objective import centre


def translation_matrix(pairs: Sequence[tuple[str, str]]) -> Tensor:
    """Return which foreign sentence i and English sentence j are one of the pairs: (pairs, pairs) bool.

    Several pairs may share a sentence. Then all of its translations are right, not only that of the same row.
    """
    known = set(pairs)
    return torch.tensor([[(foreign, english) in known for _, english in pairs] for foreign, _ in pairs])


def pair_accuracy(
    foreign: Tensor, english: Tensor, right: Tensor | None = None, *, centred: bool = True
) -> float:
    """Return the share of sentences whose nearest candidate by cosine is a translation.

    It is the mean of both directions.

    Args:
        foreign, english: (pairs, hidden) pooled states, row i parallel to row i.
        right: (pairs, pairs) bool, from `translation_matrix`. None if no two pairs share a sentence.
        centred: subtract each side's mean first, which removes the language's own direction.

    Returns:
        Between 0 and 1. A tie with a wrong candidate counts as not found.
    """
    sides = (foreign.float(), english.float())
    rows, columns = (F.normalize(centre(side) if centred else side, dim=-1) for side in sides)
    similarity = rows @ columns.T
    right = torch.eye(len(rows), dtype=torch.bool) if right is None else right
    right = right.to(similarity.device)
    best = similarity.masked_fill(~right, -torch.inf)
    others = similarity.masked_fill(right, -torch.inf)
    hits = torch.cat([best.amax(side) > others.amax(side) for side in (1, 0)])
    return float(hits.float().mean())
