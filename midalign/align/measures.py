"""Retrieval measures between the sentences of two languages, by their pooled states."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from midalign.align.objective import centre

MARGIN_NEIGHBOURS = 4
"""Neighbours in the mean of Artetxe and Schwenk (2019, arXiv 1811.01136)."""
CSLS_NEIGHBOURS = 10
"""Neighbours in the mean of Conneau et al. (2018, arXiv 1710.04087)."""

TIE = 1e-12
"""Scores that differ by less are tied: on some processors, matrix kernels round the products of equal
sentences differently by position."""

RETRIEVALS = ("accuracy", "margin", "csls", "centred")
"""Measures from one language to another. The opposite direction has the suffix `_back`."""
SYMMETRIC = ("pair_cosine", "other_cosine", "centred_pair_cosine", "centred_other_cosine", "mexa")
"""Measures without a direction."""


Repeated = Mapping[str, Sequence[int]]
"""Sentences of a language that occur in several rows -> these rows."""


def repeated_sentences(sentences: Sequence[str]) -> Repeated:
    """Return the rows of every sentence that occurs more than once."""
    rows: dict[str, list[int]] = {}
    for row, sentence in enumerate(sentences):
        rows.setdefault(sentence, []).append(row)
    return {sentence: places for sentence, places in rows.items() if len(places) > 1}


def further_translations(
    foreign: Sequence[str], other: Sequence[str], again: Repeated, other_again: Repeated
) -> list[tuple[int, int]]:
    """Return the pairs (i, j), i != j, for which a row translates the sentence `foreign[i]` by `other[j]`.

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
        foreign: (sentences, hidden) pooled states, any float dtype. Computed in fp64: if sentences share
            most of their states, cosines are so close to 1 that rounding would order them in fp32.
        others: (languages, sentences, hidden), row i of each parallel to row i of `foreign`.
        further: (3, k) language, row i and row j of the `further_translations` of repeated sentences, besides
            those of equal rows.

    Returns:
        Measure -> (languages,) fp64. A retrieval is the share of sentences with a translation that scores
        higher than every other candidate. A tie counts as not found. `_back` is the opposite direction.

        accuracy: by cosine. margin: by its ratio to the mean cosine of both sides' nearest neighbours
        (1811.01136, ratio). csls: by twice the cosine minus these means (1710.04087). centred: by cosine of
        states minus their language's mean, as in `midalign.align.retrieval`. mexa: the share found in both
        directions at once (Kargaran et al. 2024, arXiv 2410.05873). pair_cosine, other_cosine: mean cosine of
        translations and of all other pairs, with the prefix `centred_` after subtracting language means.
    """
    # 1. Cosines of plain and of centred states, and the mean cosines of nearest neighbours.
    sides = foreign.double(), others.double()
    plain = _cosines(*sides)
    centred = _cosines(centre(sides[0]), sides[1] - sides[1].mean(1, keepdim=True))
    margin, csls = _neighbours(plain)
    if further is None:
        further = torch.empty(3, 0, dtype=torch.long)
    further = further.to(plain.device)

    # 2. Retrieval by each score. The divisions reuse the memory of the neighbours' means.
    found = {
        "accuracy": _found(plain, further),
        "margin": _found(torch.div(plain, margin, out=margin), further),
        "csls": _found(torch.sub(plain, csls, out=csls), further),
        "centred": _found(centred, further),
    }
    result = {"mexa": (found["accuracy"][0] & found["accuracy"][1]).double().mean(1)}
    for name, found_by_side in found.items():
        result[name], result[f"{name}_back"] = (side.double().mean(1) for side in found_by_side)

    # 3. Mean cosines of translations and of other pairs, without further translations of repeated sentences.
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
        # Add one by one: a reduction may add in another order elsewhere, which breaks ties.
        rows, columns = (sum(side[1:count], side[0]) / len(side[:count]) for side in nearest)
        mean: Tensor = (rows + columns) / 2
        return mean

    return both(MARGIN_NEIGHBOURS), both(CSLS_NEIGHBOURS)


def _found(scores: Tensor, further: Tensor) -> tuple[Tensor, Tensor]:
    """Return if a translation scores highest in its row, and in its column: (languages, sentences) bool."""
    diagonal = scores.diagonal(dim1=1, dim2=2)
    aligned, more = diagonal.clone(), scores[tuple(further)]
    best = [_raised(aligned, further[0], further[side], more) for side in (1, 2)]
    # Mask in place and restore: a masked copy takes as long as everything else.
    diagonal.fill_(-torch.inf)
    scores[tuple(further)] = -torch.inf
    retrieved = best[0] > scores.amax(2) + TIE, best[1] > scores.amax(1) + TIE
    diagonal.copy_(aligned)
    scores[tuple(further)] = more
    return retrieved


def _raised(scores: Tensor, languages: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Return the higher of each score and those of further translations: (languages, sentences)."""
    places = languages * scores.shape[1] + rows
    return scores.flatten().scatter_reduce(0, places, others, "amax").view_as(scores)
