"""From a family's counts to what lm-eval prints: a metric, and its standard error behind ±."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from midalign.metrics import bootstrap

Aggregation = Callable[[list[list[int]]], float]


def rate(metric: Callable[..., Any]) -> Aggregation:
    """The metric of all items' counts together."""

    def pooled(items: list[list[int]]) -> float:
        return float(metric(np.array(items, np.int64).sum(0)))

    return pooled


def error(metric: Callable[..., Any]) -> Aggregation:
    """The bootstrap standard error of `rate(metric)`."""

    def resampled(items: list[list[int]]) -> float:
        return bootstrap.stderr(np.array(items, np.int64), metric)

    return resampled


def under_every_name(counts: list[int], metrics: Mapping[str, Any]) -> dict[str, list[int]]:
    """An item's counts under every metric's name and under `<metric>_stderr`, which lm-eval prints behind ±
    when it comes after its metric."""
    return {f"{metric}{suffix}": counts for metric in metrics for suffix in ("", "_stderr")}


def by_name(metrics: Mapping[str, Callable[..., Any]]) -> dict[str, Aggregation]:
    """Both aggregations of each metric, by the names that lm-eval looks up in a family's module."""
    found: dict[str, Aggregation] = {}
    for name, metric in metrics.items():
        found[name], found[f"{name}_stderr"] = rate(metric), error(metric)
    return found
