"""Quotients of counts, NaN if nothing was counted: a share of no cases is not a score of 0."""

import numpy as np
from numpy.typing import NDArray


def quotient(part: NDArray[np.generic], whole: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return part / whole of equal shapes (...), with NaN where `whole` is 0."""
    whole = np.asarray(whole, np.float64)
    empty = np.full(np.broadcast_shapes(np.shape(part), whole.shape), np.nan)
    return np.asarray(np.divide(part, whole, out=empty, where=whole != 0))


def f1_of_shares(
    true_predicted: NDArray[np.int64],
    predicted: NDArray[np.int64],
    true_gold: NDArray[np.int64],
    gold: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the harmonic mean of precision and recall whose true positives are counted on either side.

    All counts and the result have the shape (...). It is 0 if both are 0, and NaN without predicted and gold.
    """
    precision = true_predicted / np.maximum(predicted, 1)
    recall = true_gold / np.maximum(gold, 1)
    both = precision + recall
    harmonic = 2 * precision * recall / np.where(both > 0, both, 1)
    return np.asarray(np.where(predicted + gold > 0, harmonic, np.nan))
