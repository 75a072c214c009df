"""Paired tests of two systems from their counts per item, with sacreBLEU's draws.

Texts are scored once. Only their counts are swapped or resampled. With the seed and the number of draws of
sacreBLEU, the p-values of translation equal those of `sacrebleu --paired-ar` and `--paired-bs` (Post 2018,
sacrebleu/significance.py).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SEED = 12345
"""The seed of sacreBLEU."""
TRIALS = 10_000
"""Trials of approximate randomization, as in sacreBLEU."""
RESAMPLES = 1000
"""Resampled test sets of the paired bootstrap test, as in sacreBLEU."""
CHUNK = 3_000_000
"""Number of weights in memory at one time, 24 MB."""

Counts = NDArray[np.int64]
Rates = NDArray[np.float64]
Metric = Callable[[Counts], Rates]
"""Takes pooled counts (..., columns) and returns rates (...)."""


def swap_masks(items: int, stream: int = 0) -> NDArray[np.bool_]:
    """Return (TRIALS, items) random swaps of the two systems, True where they stay.

    Stream 0 has the swaps of sacreBLEU. Other streams are independent of it.
    """
    generator = np.random.default_rng([SEED, stream] if stream else SEED)
    return generator.integers(2, size=(TRIALS, items), dtype=bool)


def swapped_differences(first: Counts, second: Counts, metric: Metric, masks: NDArray[np.bool_]) -> Rates:
    """Return the metric of the first system minus that of the second after each of the swaps.

    Args:
        first: (items, columns) counts.
        second: the same of the other system.
        metric: the metric of pooled counts.
        masks: (trials, items), True where the systems stay.
    """
    gain = (first - second).astype(np.float64)
    first_total, second_total = first.sum(axis=0), second.sum(axis=0)
    rows = max(1, CHUNK // len(first))
    differences = []
    for start in range(0, len(masks), rows):
        # The product is exact: counts are small integers.
        kept = np.rint(masks[start : start + rows].astype(np.float64) @ gain).astype(np.int64)
        differences.append(metric(second_total + kept) - metric(first_total - kept))
    return np.concatenate(differences)


def randomization_p_value(swapped: Rates, observed: float) -> float:
    """Return the two-sided p-value of approximate randomization (Noreen 1989, Riezler and Maxwell 2005).

    Swaps that give exactly the observed difference count as well, so that equal systems have p = 1.
    SacreBLEU does not count them.
    """
    swapped = swapped[~np.isnan(swapped)]
    if np.isnan(observed):
        return float("nan")
    as_large = int((np.abs(swapped) >= abs(observed) - 1e-12).sum())
    return (as_large + 1) / (len(swapped) + 1)


def sacrebleu_randomization(baseline: Counts, system: Counts, metric: Metric) -> float:
    """Return the p-value of `sacrebleu --paired-ar`."""
    swapped = swapped_differences(baseline, system, metric, swap_masks(len(baseline)))
    observed = abs(float(metric(system.sum(axis=0)) - metric(baseline.sum(axis=0))))
    return sacrebleu_p_value(np.abs(swapped), observed)


def sacrebleu_bootstrap(baseline: Counts, system: Counts, metric: Metric) -> float:
    """Return the p-value of `sacrebleu --paired-bs` (Koehn 2004)."""
    generator = np.random.default_rng(SEED)
    items = generator.choice(len(baseline), size=(RESAMPLES, len(baseline)), replace=True)
    offsets = np.arange(RESAMPLES)[:, None] * len(baseline)
    weights = np.bincount((items + offsets).ravel(), minlength=items.size).reshape(items.shape)
    rates = [metric(weights @ counts) for counts in (baseline, system)]
    differences = np.abs(rates[1] - rates[0])
    observed = abs(float(metric(system.sum(axis=0)) - metric(baseline.sum(axis=0))))
    return sacrebleu_p_value(differences - differences.mean(), observed)


def sacrebleu_p_value(statistics: Rates, observed: float) -> float:
    """Return the share of the statistics above the observed one, which counts itself."""
    return (int((statistics > observed).sum()) + 1) / (len(statistics) + 1)
