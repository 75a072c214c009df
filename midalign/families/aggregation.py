"""Turn a family's counts into the metrics and standard errors that lm-eval prints."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from midalign.metrics import bootstrap, item_value, scorer


class ItemScore(float):
    """One item's value of a metric, with the item's counts for the aggregation and the record.

    In lm-eval's samples it is a plain number.
    """

    counts: Sequence[int]

    def __new__(cls, value: float, counts: Sequence[int] = ()) -> "ItemScore":
        """Create the value. Pickle restores `counts` afterwards."""
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
    """Return an aggregation: the bootstrap standard error of `rate(metric)`."""

    def resampled(items: Sequence[ItemScore]) -> float:
        return bootstrap.stderr(_counts(items), metric)

    return resampled


def _counts(items: Sequence[ItemScore]) -> np.ndarray:
    return np.array([item.counts for item in items], np.int64)


def item_scores(family: str, counts: list[int], metrics: Mapping[str, Any]) -> dict[str, ItemScore]:
    """Return an item's value of each metric, and 0 under `<metric>_stderr`.

    This is the only way to a custom standard error in lm-eval: it prints the aggregate of that name after ±,
    if the name comes after its metric.
    """
    family_scorer, scores = scorer(family), dict[str, ItemScore]()
    for metric in metrics:
        scores[metric] = ItemScore(item_value(family_scorer, metric, counts), counts)
        scores[f"{metric}_stderr"] = ItemScore(0.0, counts)
    return scores


def aggregations_by_name(metrics: Mapping[str, Callable[..., Any]]) -> Callable[[str], Aggregation]:
    """Return a `__getattr__` for a family's module, where lm-eval looks up two aggregations per metric."""
    aggregations: dict[str, Aggregation] = {}
    for name, metric in metrics.items():
        aggregations[name], aggregations[f"{name}_stderr"] = rate(metric), error(metric)

    def aggregation(name: str) -> Aggregation:
        try:
            return aggregations[name]
        except KeyError as error:
            raise AttributeError(f"no attribute or metric {name!r}") from error

    return aggregation
