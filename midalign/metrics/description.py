"""Description of a metric: its name, its title in tables, how it is computed and how to read it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MetricDescription:
    """A metric of a task family. Calling it computes the metric."""

    name: str
    """Name in records and in lm-eval."""
    title: str
    """Name in tables and plots."""
    function: Callable[[NDArray[np.int64]], NDArray[np.float64]]
    """Takes pooled counts (..., columns) and gives scores (...), NaN without a case."""
    percent: bool = False
    """True for metrics in per cent by custom. All others are shares or ratios."""
    higher_is_better: bool | None = True
    """None if the best value lies in between, as for a ratio of lengths."""

    def __call__(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores (...) of pooled counts (..., columns)."""
        return self.function(counts)


def index_metrics(*metrics: MetricDescription) -> dict[str, MetricDescription]:
    """Return the metrics by name, in the given order."""
    return {metric.name: metric for metric in metrics}
