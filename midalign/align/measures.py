"""How well the sentences of two languages find each other, by their pooled states."""

from collections.abc import Mapping, Sequence

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


Repeated = Mapping[str, Sequence[int]]
"""Sentences of a language that stand in several rows, with these rows."""


def repeated_sentences(sentences: Sequence[str]) -> Repeated:
    """Return the rows of every sentence that stands in more than one."""
    rows: dict[str, list[int]] = {}
    for row, sentence in enumerate(sentences):
        rows.setdefault(sentence, []).append(row)
    return {sentence: places for sentence, places in rows.items() if len(places) > 1}


def further_translations(
    foreign: Sequence[str], other: Sequence[str], again: Repeated, other_again: Repeated
) -> list[tuple[int, int]]:
    """Return (i, j), i != j, where `foreign[i]` and `other[j]` translate each other in some row.

    Args:
        foreign, other: sentences, parallel by row.
        again, other_again: `repeated_sentences` of each.
    """
    rows = {row for places in (*again.values(), *other_again.values()) for row in places}
    right = {
        (row, place)
        for row in rows
        for alike in again.get(foreign[row], [row])
        for place in other_again.get(other[alike], [alike])
    }
    return sorted((row, place) for row, place in right if row != place)


def measure_retrieval(foreign: Tensor, others: Tensor, further: Tensor | None = None) -> dict[str, Tensor]:
    """Measure retrieval of one language against several.

    Args:
        foreign: (sentences, hidden) pooled states, any float dtype; computed in fp64: where sentences share
            most of their states, cosines lie so near 1 that fp32 orders them by its rounding.
        others: (languages, sentences, hidden), row i of each parallel to row i of `foreign`.
        further: (3, k) language, row i and row j of translations besides those of equal rows, where sentences
            are repeated: `further_translations`.

    Returns:
        By name (languages,) fp64. A retrieval is the share of sentences of which a translation scores higher
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
    if further is None:
        further = torch.empty(3, 0, dtype=torch.long)
    further = further.to(plain.device)
    found = {
        "accuracy": _found(plain, further),
        "margin": _found(torch.div(plain, margin, out=margin), further),
        "csls": _found(torch.sub(plain, csls, out=csls), further),
        "centred": _found(centred, further),
    }
    result = {"mexa": (found["accuracy"][0] & found["accuracy"][1]).double().mean(1)}
    for name, sides_found in found.items():
        result[name], result[f"{name}_back"] = (side.double().mean(1) for side in sides_found)
    for prefix, cosines in (("", plain), ("centred_", centred)):
        pairs = cosines.diagonal(dim1=1, dim2=2)
        count = pairs.shape[1]
        result[f"{prefix}pair_cosine"] = pairs.mean(1)
        rest = cosines.sum((1, 2)) - pairs.sum(1)
        rest = rest.index_add(0, further[0], cosines[tuple(further)], alpha=-1)
        number = count * (count - 1) - further[0].bincount(minlength=len(rest))
        result[f"{prefix}other_cosine"] = rest / number.clamp(min=1)
    return result


def _cosines(foreign: Tensor, others: Tensor) -> Tensor:
    """Return cosines (languages, sentences of `foreign`, sentences of the other)."""
    return F.normalize(foreign, dim=-1) @ F.normalize(others, dim=-1).transpose(1, 2)


def _neighbours(cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cosine of nearest neighbours for margin and for CSLS, in the shape of `cosines`."""
    most = max(MARGIN_NEIGHBOURS, CSLS_NEIGHBOURS)
    nearest = [cosines.topk(min(most, cosines.shape[dim]), dim=dim).values.split(1, dim) for dim in (2, 1)]

    def both(count: int) -> Tensor:
        # One after the other: a reduction may add up in another order elsewhere, which breaks ties.
        rows, columns = (sum(own[1:count], own[0]) / len(own[:count]) for own in nearest)
        mean: Tensor = (rows + columns) / 2
        return mean

    return both(MARGIN_NEIGHBOURS), both(CSLS_NEIGHBOURS)


def _found(scores: Tensor, further: Tensor) -> tuple[Tensor, Tensor]:
    """Return (languages, sentences) bool: whose own score is the highest of its row, and of its column."""
    diagonal = scores.diagonal(dim1=1, dim2=2)
    own, more = diagonal.clone(), scores[tuple(further)]
    best = [_raised(own, further[0], further[side], more) for side in (1, 2)]
    # In place, and put back: a masked copy takes as long as the rest.
    diagonal.fill_(-torch.inf)
    scores[tuple(further)] = -torch.inf
    found = best[0] > scores.amax(2) + TIE, best[1] > scores.amax(1) + TIE
    diagonal.copy_(own)
    scores[tuple(further)] = more
    return found


def _raised(scores: Tensor, languages: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Return (languages, sentences) scores, or where higher those that others have at their places."""
    places = languages * scores.shape[1] + rows
    return scores.flatten().scatter_reduce(0, places, others, "amax").view_as(scores)
