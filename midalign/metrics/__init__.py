"""Pure functions on strings and counts: one module a task family, all of the shape of `Scorer`."""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

FAMILIES = ("slot", "slot_spans", "translation", "structured")


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
    """Each takes pooled counts (..., columns) and gives scores (...)."""
    PERCENT: frozenset[str]
    """Metrics that are in per cent by custom; the others are shares or ratios."""
    COMPARABLE: bool
    """Whether scores in two languages can be compared, so that there is a transfer gap."""


def scorer(family: str) -> Scorer:
    """The module of one of FAMILIES."""
    return cast(Scorer, import_module(f"midalign.metrics.{family}"))
