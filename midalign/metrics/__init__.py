"""Pure functions on strings and counts. Each task family has a module that fulfils `Scorer`."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

FAMILIES = ("slot", "slot_spans", "translation", "structured")

NEUTRAL = frozenset({"length_ratio"})
"""Metrics whose best value lies in between."""


class Scorer(Protocol):
    """What a family's module has: integer counts per item, and metrics of their sums.

    A function of its own, such as `count_slots`, makes the counts.
    """

    COLUMNS: tuple[str, ...]
    """The counts of an item, the first of them `n`, which is 1."""
    AT_MOST: tuple[tuple[str, ...], ...]
    """Relations that hold for each item: the columns before the last one add up to at most the last one. They
    keep every metric that is a share or a percentage between 0 and its largest value."""
    ADDED: frozenset[str]
    """Columns that records of earlier versions lack. There their sum is 0, and no metric reads it."""
    HEADLINE: str
    """The first of METRICS."""
    METRICS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]]
    """Each takes pooled counts (..., columns) and returns scores (...), NaN if there is no case."""
    LOWER_IS_BETTER: frozenset[str]
    """Metrics that count errors."""
    READABLE: str
    """The column that is 1 for a readable answer. Only a readable answer can say that there is nothing."""
    PERCENT: frozenset[str]
    """Metrics in per cent, by convention. The others are shares or ratios."""
    COMPARABLE: bool
    """Whether scores in two languages can be compared. Only then is there a transfer gap."""


def higher_is_better(scored: Scorer, metric: str) -> bool | None:
    """Return the direction of a metric, None if neither end is better (a ratio of lengths)."""
    return None if metric in NEUTRAL else metric not in scored.LOWER_IS_BETTER


def metric_directions() -> dict[str, bool | None]:
    """Return `higher_is_better` of every metric of every family."""
    return {
        metric: higher_is_better(scored, metric)
        for scored in map(scorer, FAMILIES)
        for metric in scored.METRICS
    }


def item_value(scored: Scorer, metric: str, counts: Sequence[int]) -> float:
    """Return one item's value of a metric.

    If the metric has no case, such as the values of an empty answer, a readable answer gets the best value: a
    right "None" scores 1. Pooled scores skip such items.

    Args:
        scored: the family's scorer.
        metric: one of its METRICS.
        counts: (columns,) of the item.
    """
    value = float(scored.METRICS[metric](np.array(counts, np.int64)))
    if not np.isnan(value):
        return value
    if metric in scored.LOWER_IS_BETTER:
        return 0.0
    return float(counts[scored.COLUMNS.index(scored.READABLE)])


def scorer(family: str) -> Scorer:
    """Return the module of one of FAMILIES."""
    return cast(Scorer, import_module(f"midalign.metrics.{family}"))
