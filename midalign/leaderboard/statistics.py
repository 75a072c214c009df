"""Paired bootstrap over items: scores, their bootstrap draws, and the intervals that follow from them.

Intervals are percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13) over items. One draw
resamples the document ids. It is the same for all models, so that differences are paired (Koehn 2004), and
the same for all languages with these ids, because parallel items are hard or easy together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from midalign.leaderboard.sections import BoardSection
from midalign.metrics.rates import quotient

DRAWS = 1000
LEVEL = 0.95
_CHUNK = 100
"""Draws at a time. It bounds the weights to 100 x items x 8 bytes."""


@dataclass(frozen=True)
class Estimate:
    """A value, the bounds of its 95% interval and its standard error."""

    value: float
    low: float
    high: float
    stderr: float

    @property
    def holds_zero(self) -> bool:
        """True if 0 lies in the interval."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class Scores:
    """Scores and their bootstrap draws, of one run or averaged over several seeds."""

    points: np.ndarray
    """(languages, metrics)."""
    draws: np.ndarray
    """(DRAWS, languages, metrics)."""


def bootstrap(section: BoardSection) -> dict[str, Scores]:
    """Return the scores of each run by file name, all runs on the same draws."""
    runs = [run for row in section.rows for run in row.runs]
    codes = section.languages
    draws = np.empty((len(runs), DRAWS, len(codes), len(section.metrics)))
    for ids in sorted(set(section.first.ids.values())):
        alike = [code for code in codes if section.first.ids[code] == ids]
        # Put the runs side by side, (items, runs x columns) per language: one product serves all models.
        stacked = {code: np.concatenate([run.counts[code] for run in runs], axis=1) for code in alike}
        # Draw once for all languages with these ids, and pool each language's counts by the draws.
        start = 0
        for weights in draw_weights(len(stacked[alike[0]]), seed=int(ids[:8], 16)):
            for code in alike:
                pooled = (weights @ stacked[code].astype(np.float64)).reshape(len(weights), len(runs), -1)
                values = metric_shares(section, pooled)
                draws[:, start : start + len(weights), codes.index(code)] = values.swapaxes(0, 1)
            start += len(weights)
    points = np.array(
        [[metric_shares(section, run.counts[code].sum(axis=0)) for code in codes] for run in runs]
    )
    return {run.file: Scores(points[index], draws[index]) for index, run in enumerate(runs)}


def draw_weights(items: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each item was drawn with replacement: DRAWS rows in chunks of (_CHUNK, items)."""
    generator = np.random.default_rng(seed)
    # Offset each row's items, so that one bincount serves the chunk.
    offsets = np.arange(_CHUNK)[:, None] * items
    for _ in range(DRAWS // _CHUNK):
        drawn = generator.integers(items, size=(_CHUNK, items)) + offsets
        yield np.bincount(drawn.ravel(), minlength=_CHUNK * items).reshape(_CHUNK, items).astype(np.float64)


def metric_shares(section: BoardSection, pooled: np.ndarray) -> np.ndarray:
    """Return all metrics of pooled counts (..., columns) as shares: (..., metrics)."""
    units = [100 if metric.percent else 1 for metric in section.metrics.values()]
    return np.stack([metric(pooled) for metric in section.metrics.values()], axis=-1) / units


def mean_scores(scores: Sequence[Scores]) -> Scores:
    """Return the mean of several seeds."""
    return Scores(mean_defined([s.points for s in scores], 0), mean_defined([s.draws for s in scores], 0))


def mean_defined(values: ArrayLike, axis: int = -1) -> np.ndarray:
    """Return the mean over an axis of the values that are not NaN, or NaN if all are.

    A share without a case is NaN. It neither removes nor lowers the others.
    """
    values = np.asarray(values)
    return quotient(np.nansum(values, axis=axis), (~np.isnan(values)).sum(axis=axis))


def estimate(point: float, draws: np.ndarray) -> Estimate:
    """Return a value with the interval and standard error of its bootstrap draws, all NaN if the value is.

    Draws without a case are NaN and are skipped.
    """
    draws = draws[~np.isnan(draws)]
    if np.isnan(point) or len(draws) < 2:
        return Estimate(float(point), np.nan, np.nan, np.nan)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(float(point), float(low), float(high), float(draws.std(ddof=1)))
