"""How well the sentences of two languages find each other, by their pooled states."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from midalign.align.objective import centre

MARGIN_NEIGHBOURS = 4
"""As Artetxe and Schwenk (2019, arXiv 1811.01136) average them."""
CSLS_NEIGHBOURS = 10
"""As Conneau et al. (2018, arXiv 1710.04087) do."""

TIE = 1e-12
"""Scores that differ by less are tied: some processors' matrix kernels round the products of equal sentences
differently by position."""

RETRIEVALS = ("accuracy", "margin", "csls", "centred")
"""Measures from a language to another, which have a `_back`."""
SYMMETRIC = ("pair_cosine", "other_cosine", "centred_pair_cosine", "centred_other_cosine", "mexa")
"""Measures that have no direction."""


def measures(foreign: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Of one language against several.

    Args:
        foreign: (sentences, hidden) pooled states, any float dtype; computed in fp64: where sentences share
            most of their states, cosines lie so near 1 that fp32 orders them by its rounding.
        others: (languages, sentences, hidden), row i of each parallel to row i of `foreign`.

    Returns:
        By name (languages,) fp64. A retrieval is the share of sentences whose own translation scores higher
        than every other candidate, a tie counting as not found; `_back` is from the other language to this.

        accuracy: by cosine. margin: by its ratio to the mean cosine of both sides' nearest neighbours
        (1811.01136, ratio). csls: by twice the cosine minus these means (1710.04087). centred: by cosine of
        states minus their language's mean, as `midalign.align.retrieval` has it. mexa: the share found in
        both directions at once (Kargaran et al. 2024, arXiv 2410.05873). pair_cosine, other_cosine: means
        over translations and over all else; `centred_`: without what a language's sentences share.
    """
    sides = foreign.double(), others.double()
    plain = _cosines(*sides)
    centred = _cosines(centre(sides[0]), sides[1] - sides[1].mean(1, keepdim=True))
    margin, csls = _neighbours(plain)
    found = {
        "accuracy": _found(plain),
        "margin": _found(torch.div(plain, margin, out=margin)),
        "csls": _found(torch.sub(plain, csls, out=csls)),
        "centred": _found(centred),
    }
    result = {"mexa": (found["accuracy"][0] & found["accuracy"][1]).double().mean(1)}
    for name, sides_found in found.items():
        result[name], result[f"{name}_back"] = (side.double().mean(1) for side in sides_found)
    for prefix, cosines in (("", plain), ("centred_", centred)):
        pairs = cosines.diagonal(dim1=1, dim2=2)
        count = pairs.shape[1]
        result[f"{prefix}pair_cosine"] = pairs.mean(1)
        rest = cosines.sum((1, 2)) - pairs.sum(1)
        result[f"{prefix}other_cosine"] = rest / max(count * (count - 1), 1)
    return result


def _cosines(foreign: Tensor, others: Tensor) -> Tensor:
    """(languages, sentences of `foreign`, sentences of the other)."""
    return F.normalize(foreign, dim=-1) @ F.normalize(others, dim=-1).transpose(1, 2)


def _neighbours(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """For margin and for CSLS, the mean cosine of nearest neighbours, in the shape of `cosines`."""
    most = max(MARGIN_NEIGHBOURS, CSLS_NEIGHBOURS)
    nearest = [cosines.topk(min(most, cosines.shape[dim]), dim=dim).values.split(1, dim) for dim in (2, 1)]

    def both(count: int) -> Tensor:
        # One after the other: a reduction may add up in another order elsewhere, which breaks ties.
        rows, columns = (sum(own[1:count], own[0]) / len(own[:count]) for own in nearest)
        mean: Tensor = (rows + columns) / 2
        return mean

    return both(MARGIN_NEIGHBOURS), both(CSLS_NEIGHBOURS)


def _found(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(languages, sentences) bool: whose own score is above all others' of its row, and of its column."""
    diagonal = scores.diagonal(dim1=1, dim2=2)
    own = diagonal.clone()
    diagonal.fill_(-torch.inf)  # in place, and put back: a masked copy takes as long as the rest
    found = own > scores.amax(2) + TIE, own > scores.amax(1) + TIE
    diagonal.copy_(own)
    return found
