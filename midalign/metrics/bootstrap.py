"""Bootstrap over items by counts (Efron and Tibshirani 1993, chapter 6).

Texts are scored once. Only their counts are resampled.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

CHUNK = 300_000
"""Number of weights in memory at one time, 2.4 MB: 100 draws of 3,000 items."""


def stderr(
    counts: NDArray[np.int64],
    metric: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    draws: int = 1000,
    seed: int = 0,
) -> float:
    """Return a metric's standard error: its standard deviation over resampled test sets.

    Test sets without a case, for which the metric is NaN, are skipped. NaN if fewer than two remain.

    Args:
        counts: (items, columns), at least one item.
        metric: takes pooled counts (..., columns) and returns rates (...).
        draws: number of resampled test sets.
        seed: of the draws.
    """
    counts = np.ascontiguousarray(counts, np.int64)
    pooled = _resampled(counts.tobytes(), counts.shape[1], draws, seed)
    rates = metric(pooled)
    rates = rates[~np.isnan(rates)]
    return float(rates.std(ddof=1)) if len(rates) > 1 else float("nan")


@lru_cache(maxsize=1)  # lm-eval asks for the metrics of a task one after the other, from the same counts
def _resampled(counts: bytes, columns: int, draws: int, seed: int) -> NDArray[np.int64]:
    return resample(np.frombuffer(counts, np.int64).reshape(-1, columns), draws, seed)


def resample(counts: NDArray[np.int64], draws: int, seed: int) -> NDArray[np.int64]:
    """Draw test sets of the same size with replacement, and return their pooled counts (draws, columns)."""
    # A float product runs in BLAS, and stays exact: counts are small integers.
    exact = counts.astype(np.float64)
    pooled = [weights @ exact for weights in draw_weights(len(counts), draws, seed)]
    return np.rint(np.concatenate(pooled)).astype(np.int64)


def draw_weights(items: int, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each item was drawn with replacement: `draws` rows in chunks of (rows, items)."""
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // items)
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        # Offset each row's items, so that one bincount serves the chunk; numpy's multinomial takes ten times
        # as long.
        drawn = generator.integers(items, size=(size, items)) + np.arange(size)[:, None] * items
        yield np.bincount(drawn.ravel(), minlength=size * items).reshape(size, items).astype(np.float64)
