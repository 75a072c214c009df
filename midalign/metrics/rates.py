"""Quotients of counts, NaN if nothing was counted: a share of no cases is not a score of 0."""

import numpy as np
from numpy.typing import NDArray


def quotient(part: NDArray[np.generic], whole: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return part / whole of equal shapes (...), with NaN where `whole` is 0."""
    whole = np.asarray(whole, np.float64)
    empty = np.full(np.broadcast_shapes(np.shape(part), whole.shape), np.nan)
    return np.asarray(np.divide(part, whole, out=empty, where=whole != 0))
