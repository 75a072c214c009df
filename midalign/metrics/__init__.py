"""Pure functions on strings and counts: one module a task family, all of the shape of `Scorer`."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

FAMILIES = ("slot", "slot_spans", "translation", "structured")

NEUTRAL = frozenset({"length_ratio"})
"""Metrics whose best value lies in between."""


class Scorer(Protocol):
    """What a family's module has: integer counts per item, and metrics of their sums."""

    COLUMNS: tuple[str, ...]
    """The counts of an item, the first of them `n`, which is 1."""
    AT_MOST: tuple[tuple[str, ...], ...]
    """Relations that hold for each item: the columns before the last one add up to at most the last one. With
    them every metric that is a share or a per cent lies between 0 and its largest value."""
    ADDED: frozenset[str]
    """Columns that records of earlier versions lack; their sum is taken for 0, and no metric reads it."""
    HEADLINE: str
    """The first of METRICS."""
    METRICS: dict[str, Callable[[NDArray[np.int64]], NDArray[np.float64]]]
    """Each takes pooled counts (..., columns) and gives scores (...), NaN where there is no case."""
    LOWER_IS_BETTER: frozenset[str]
    """Metrics that count faults."""
    READABLE: str
    """The column that is 1 for an answer that can be read: it says nothing where it has nothing."""
    PERCENT: frozenset[str]
    """Metrics that are in per cent by custom; the others are shares or ratios."""
    COMPARABLE: bool
    """Whether scores in two languages can be compared, so that there is a transfer gap."""


def higher_is_better(scored: Scorer, metric: str) -> bool | None:
    """Return the direction of a metric; None where neither end is better (a ratio of lengths)."""
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

    An item without a case, such as values of an answer that has none, has the best value if the answer could
    be read: a right "None" scores 1. Pooled scores leave such items out.

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
