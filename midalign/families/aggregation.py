"""From a family's counts to what lm-eval prints: a metric, and its standard error behind ±."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from midalign.metrics import bootstrap, item_value, scorer


class ItemScore(float):
    """One item's value of a metric, which carries the item's counts to the aggregation and to the record.

    In lm-eval's samples it is a plain number.
    """

    counts: Sequence[int]

    def __new__(cls, value: float, counts: Sequence[int] = ()) -> "ItemScore":
        """Make the value; pickle restores `counts` afterwards."""
        score = super().__new__(cls, value)
        score.counts = counts
        return score


Aggregation = Callable[[Sequence[ItemScore]], float]


def rate(metric: Callable[..., Any]) -> Aggregation:
    """Return an aggregation: the metric of the summed counts of all items, NaN without a case."""

    def pooled(items: Sequence[ItemScore]) -> float:
        return float(metric(_counts(items).sum(0)))

    return pooled


def error(metric: Callable[..., Any]) -> Aggregation:
    """Return the aggregation that gives the bootstrap standard error of `rate(metric)`."""

    def resampled(items: Sequence[ItemScore]) -> float:
        return bootstrap.stderr(_counts(items), metric)

    return resampled


def _counts(items: Sequence[ItemScore]) -> np.ndarray:
    return np.array([item.counts for item in items], np.int64)


def item_scores(family: str, counts: list[int], metrics: Mapping[str, Any]) -> dict[str, ItemScore]:
    """Return an item's value of each metric, and under `<metric>_stderr` the standard error of one item: 0.

    lm-eval has no other way to a standard error of its own: it prints what is aggregated under that name
    behind ±, if the name comes after its metric.
    """
    scored, found = scorer(family), dict[str, ItemScore]()
    for metric in metrics:
        found[metric] = ItemScore(item_value(scored, metric, counts), counts)
        found[f"{metric}_stderr"] = ItemScore(0.0, counts)
    return found


def by_name(metrics: Mapping[str, Callable[..., Any]]) -> dict[str, Aggregation]:
    """Return both aggregations of each metric, by the names that lm-eval looks up in a family's module."""
    found: dict[str, Aggregation] = {}
    for name, metric in metrics.items():
        found[name], found[f"{name}_stderr"] = rate(metric), error(metric)
    return found
