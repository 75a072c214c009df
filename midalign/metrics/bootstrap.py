"""Bootstrap over items by counts: texts are scored once, only counts are drawn again."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

CHUNK = 100
"""Draws whose weights exist at one time: 100 x 3,000 items are 2.4 MB."""


def draws(counts: NDArray[np.int64], draws: int = 1000, seed: int = 0) -> NDArray[np.int64]:
    """Pooled counts of resampled test sets.

    Args:
        counts: (items, columns).

    Returns:
        (draws, columns): each row the sum over as many items, drawn with replacement.
    """
    random, items = np.random.default_rng(seed), len(counts)
    even = np.full(items, 1 / items)
    sizes = [min(CHUNK, draws - start) for start in range(0, draws, CHUNK)]
    # Float products run in BLAS; counts and weights are small integers, so they stay exact.
    pooled = [random.multinomial(items, even, size).astype(float) @ counts.astype(float) for size in sizes]
    return np.rint(np.concatenate(pooled)).astype(np.int64)


def stderr(
    counts: NDArray[np.int64],
    metric: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    draws_: int = 1000,
    seed: int = 0,
) -> float:
    """Standard error of a metric of pooled counts: its standard deviation over resampled test sets."""
    return float(metric(draws(counts, draws_, seed)).std(ddof=1))
