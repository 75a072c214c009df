"""Pure functions on strings and counts. Each task family has a module that fulfils `Scorer`."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from midalign.metrics.description import MetricDescription

FAMILIES = ("slot", "slot_spans", "translation", "structured")


class Scorer(Protocol):
    """Module of a family: integer counts per item, and metrics of their sums.

    A function of its own, such as `count_slots`, makes the counts.
    """

    COLUMNS: tuple[str, ...]
    """The counts of an item, the first of them `n`, which is 1."""
    AT_MOST: tuple[tuple[str, ...], ...]
    """Relations that hold for each item: the columns before the last one add up to at most the last one. They
    keep every metric that is a share or a percentage between 0 and its largest value."""
    ADDED: frozenset[str]
    """Columns that records of earlier versions lack. The board skips the metrics that those records lack."""
    DERIVED: Mapping[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]]
    """Columns that follow from the other columns of an item: functions from (items, columns) to (items,).
    Records of earlier versions get them when they are loaded."""
    DERIVED_METRICS: tuple[str, ...]
    """Metrics that follow from the columns of every record, also of records that do not state them."""
    HEADLINE: str
    """The first of METRICS."""
    METRICS: Mapping[str, MetricDescription]
    """The family's metrics by name, in the order of tables."""
    DIFFERENCE_METRICS: tuple[str, ...]
    """Metrics of the table of differences, if a task has them."""
    LOSS_METRICS: tuple[str, ...]
    """Metrics that say where the headline's points are lost. They have tables of their own, if any."""
    DETAIL_METRICS: tuple[str, ...]
    """Metrics of the last table per language."""
    DETAIL_TITLE: str
    """Title of the last table per language."""
    READABLE: str
    """The column that is 1 for a readable answer. Only a readable answer can say that there is nothing."""
    COMPARABLE: bool
    """True if scores in two languages can be compared. Only then is there a transfer gap."""


def metric_directions() -> dict[str, bool | None]:
    """Return `higher_is_better` of every metric of every family."""
    return {
        name: metric.higher_is_better
        for scored in map(scorer, FAMILIES)
        for name, metric in scored.METRICS.items()
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
    if scored.METRICS[metric].higher_is_better is False:
        return 0.0
    return float(counts[scored.COLUMNS.index(scored.READABLE)])


def scorer(family: str) -> Scorer:
    """Return the module of one of FAMILIES."""
    return cast(Scorer, import_module(f"midalign.metrics.{family}"))
