"""Two-level bootstrap: scores, their draws over documents, and the intervals and tests that follow from them.

A figure varies with the documents and with the training seeds. One draw resamples the document ids. It is
the same for all models, so that differences are paired (Koehn 2004), and the same for all languages with
these ids, because parallel items are hard or easy together. Seeds are paired too: a difference is taken per
seed. The variances of both levels add up as in a crossed design of random seeds and random documents, with
Satterthwaite's degrees of freedom (Clark 1973, Westfall, Kenny and Judd 2014). docs/results/intervals.md has
the formulas and the coverage that scripts/checks/coverage.py measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from midalign.leaderboard.sections import BoardSection
from midalign.metrics.bootstrap import draw_weights
from midalign.metrics.rates import quotient

DRAWS = 10_000
LEVEL = 0.95
POWER = 0.8
"""Share of the tests that show a true difference as large as the smallest detectable one."""
RESOLUTION = 1e-7
"""Resolution of float32 draws. Smaller standard errors are rounding."""


@dataclass(frozen=True)
class Estimate:
    """A value, the bounds of its 95% interval and its standard error."""

    value: float
    low: float
    high: float
    stderr: float
    freedom: float | None = None
    """Degrees of freedom of the standard error. None if seeds add nothing to it: it is taken as known."""

    @property
    def holds_zero(self) -> bool:
        """True if 0 lies in the interval."""
        return self.low <= 0 <= self.high

    @property
    def detectable(self) -> float:
        """Smallest true difference that would be shown four times out of five.

        These are 2.8 standard errors, or more with few degrees of freedom: the sum of the quantiles of
        Student's t at 0.975 and 0.8 (Bloom 1995).
        """
        quantiles = student_quantiles(self.freedom or np.inf, np.array([(1 + LEVEL) / 2, POWER]))
        return float(quantiles.sum()) * self.stderr


@dataclass(frozen=True)
class Scores:
    """Scores of one run and their bootstrap draws."""

    points: np.ndarray
    """(languages, metrics)."""
    draws: np.ndarray
    """(DRAWS, languages, metrics) float32."""

    def minus(self, other: "Scores") -> "Scores":
        """Return the difference from another run on the same draws."""
        return Scores(self.points - other.points, self.draws - other.draws)


@dataclass(frozen=True)
class SeedScores:
    """Scores of several runs. A figure is the weighted sum over the runs."""

    runs: tuple[Scores, ...]
    """Runs, or differences of two runs of one seed."""
    weights: tuple[float, ...]
    groups: tuple[int, ...]
    """Runs of one group differ in their training seed alone."""


@dataclass(frozen=True)
class TwoLevel:
    """A figure with its draws over documents, and its standard errors."""

    value: float
    draws: np.ndarray
    """(DRAWS,) with the seeds as they are, NaN in draws without a case."""
    document_stderr: float
    """Standard error over documents alone."""
    stderr: float
    """Standard error over documents and seeds. Equal to `document_stderr` for one seed."""
    freedom: float
    """Degrees of freedom of `stderr`, infinite for one seed."""

    def bounds(self, quantiles: np.ndarray, tails: np.ndarray) -> np.ndarray:
        """Return quantiles of `draws` at their tail probabilities, widened to both levels around the value.

        The factor is the ratio of the standard errors times that of Student's t to the normal quantile.
        """
        normal, student = student_quantiles(np.inf, tails), student_quantiles(self.freedom, tails)
        deviations = (quantiles - self.value) / self.document_stderr if self.document_stderr else normal
        bounds: np.ndarray = self.value + deviations * (student / normal) * self.stderr
        return bounds


def student_quantiles(freedom: float, probabilities: np.ndarray) -> np.ndarray:
    """Return quantiles of Student's t, or of the standard normal for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    quantiles = stdtrit(freedom, probabilities) if np.isfinite(freedom) else ndtri(probabilities)
    return np.asarray(quantiles)


def bootstrap(section: BoardSection) -> dict[str, Scores]:
    """Return the scores of each run by file name, all runs on the same draws."""
    runs = [run for row in section.rows for run in row.runs]
    codes = section.languages
    # The draws of one figure lie next to each other in memory.
    draws = np.empty((len(runs), len(codes), len(section.metrics), DRAWS), np.float32)
    for ids in sorted(set(section.first.ids.values())):
        alike = [code for code in codes if section.first.ids[code] == ids]
        # Put the runs side by side, (items, runs x columns) per language: one product serves all models.
        stacked = {
            code: np.concatenate([run.counts[code] for run in runs], axis=1).astype(np.float64)
            for code in alike
        }
        # Draw once for all languages with these ids, and pool each language's counts by the draws.
        start = 0
        for weights in draw_weights(len(stacked[alike[0]]), DRAWS, seed=int(ids[:8], 16)):
            for code in alike:
                pooled = (weights @ stacked[code]).reshape(len(weights), len(runs), -1)
                values = metric_shares(section, pooled)
                draws[:, codes.index(code), :, start : start + len(weights)] = values.transpose(1, 2, 0)
            start += len(weights)
    points = np.array(
        [[metric_shares(section, run.counts[code].sum(axis=0)) for code in codes] for run in runs]
    )
    return {
        run.file: Scores(points[index], np.moveaxis(draws[index], -1, 0)) for index, run in enumerate(runs)
    }


def metric_shares(section: BoardSection, pooled: np.ndarray) -> np.ndarray:
    """Return all metrics of pooled counts (..., columns) as shares: (..., metrics)."""
    units = [100 if metric.percent else 1 for metric in section.metrics.values()]
    return np.stack([metric(pooled) for metric in section.metrics.values()], axis=-1) / units


def mean_of_seeds(runs: Sequence[Scores]) -> SeedScores:
    """Return the mean over runs that differ in their training seed alone."""
    return SeedScores(tuple(runs), (1 / len(runs),) * len(runs), (0,) * len(runs))


def unpaired_difference(runs: Sequence[Scores], others: Sequence[Scores]) -> SeedScores:
    """Return the mean over runs minus the mean over other runs, whose seeds are not the same."""
    # A metric that either side lacks in a language is undefined on both sides.
    undefined = np.isnan(mean_defined([run.points for run in runs], 0)) | np.isnan(
        mean_defined([run.points for run in others], 0)
    )
    masked = [Scores(np.where(undefined, np.nan, run.points), run.draws) for run in (*runs, *others)]
    return SeedScores(
        tuple(masked),
        (1 / len(runs),) * len(runs) + (-1 / len(others),) * len(others),
        (0,) * len(runs) + (1,) * len(others),
    )


def mean_defined(values: ArrayLike, axis: int = -1) -> np.ndarray:
    """Return the mean over an axis of the values that are not NaN, or NaN if all are.

    A share without a case is NaN. It neither removes nor lowers the others.
    """
    values = np.asarray(values)
    return quotient(np.nansum(values, axis=axis), (~np.isnan(values)).sum(axis=axis))


def mean_over_languages(
    scores: SeedScores, places: Sequence[int], metric: int, minus: Sequence[int] = ()
) -> TwoLevel:
    """Return the mean of one metric over the languages at these places.

    With `minus`, subtract the mean over the languages at those places.
    """
    values, draws = zip(*(_run_mean(run, places, metric) for run in scores.runs), strict=True)
    if minus:
        others = [_run_mean(run, minus, metric) for run in scores.runs]
        values = tuple(value - other for value, (other, _) in zip(values, others, strict=True))
        draws = tuple(drawn - other for drawn, (_, other) in zip(draws, others, strict=True))
    return two_level(np.array(values), np.stack(draws), np.array(scores.weights), np.array(scores.groups))


def _run_mean(run: Scores, places: Sequence[int], metric: int) -> tuple[float, np.ndarray]:
    """Return a run's mean over the languages that have a case, and its draws."""
    defined = [place for place in places if not np.isnan(run.points[place, metric])]
    value = float(mean_defined(run.points[defined, metric]))
    if len(defined) == 1:
        return value, run.draws[:, defined[0], metric].astype(np.float64)
    return value, mean_defined(run.draws[:, defined, metric])


def two_level(values: np.ndarray, draws: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> TwoLevel:
    """Return the weighted sum over runs with its standard errors.

    Args:
        values: (runs,) the statistic of each run. Runs without a case are NaN and are skipped.
        draws: (runs, DRAWS) the statistic of each run on resampled documents.
        weights: (runs,) equal within a group.
        groups: (runs,) runs of one group differ in their training seed alone.
    """
    # 1. Skip runs without a case, and let the others of their group stand for them.
    total = {group: weights[groups == group].sum() for group in np.unique(groups)}
    defined = ~np.isnan(values)
    if set(groups[defined]) != set(total):
        return TwoLevel(np.nan, np.empty(0), np.nan, np.nan, np.inf)
    values, draws, groups = values[defined], draws[defined], groups[defined]
    weights = np.array([total[group] / (groups == group).sum() for group in groups])

    # 2. The variance over documents, with the seeds as they are.
    combined = weights @ draws
    complete = ~np.isnan(combined)
    draws = draws[:, complete]
    documents = float(combined[complete].var(ddof=1)) if complete.sum() > 1 else np.nan
    if documents < RESOLUTION**2:
        documents = 0.0

    # 3. Add the variance over seeds. Seeds also differ because each errs on other documents, which the
    #    variance over documents has in it already: that part is taken off.
    variance, squares, least = documents, 0.0, np.inf
    for group in total:
        members = groups == group
        if members.sum() > 1:
            between = values[members].var(ddof=1)
            centred = draws[members] - draws[members].mean(axis=1, keepdims=True)
            interaction = centred.var(axis=0, ddof=1).mean()
            if between > interaction:
                share = (weights[members] ** 2).sum()
                variance += share * (between - interaction)
                squares += (share * between) ** 2 / (members.sum() - 1)
                least = min(least, members.sum() - 1)
    # Satterthwaite's formula has no lower bound here, since the variance subtracts a mean square. A sum of
    # variances has at least the degrees of freedom of its least certain one.
    freedom = max(variance**2 / squares, least) if squares else np.inf
    return TwoLevel(
        float(weights @ values),
        combined,
        float(np.sqrt(documents)),
        float(np.sqrt(variance)),
        float(freedom),
    )


def ratio(change: TwoLevel, whole: TwoLevel) -> TwoLevel:
    """Return a change over a whole, on the draws where the ratio is finite.

    Its standard error is larger over both levels in the proportion that the change's is.
    """
    draws = change.draws / np.where(whole.draws == 0, np.nan, whole.draws)
    documents = float(np.nanstd(draws, ddof=1))
    widening = change.stderr / change.document_stderr if change.document_stderr else 1.0
    return TwoLevel(change.value / whole.value, draws, documents, documents * widening, change.freedom)


def estimate(figure: TwoLevel) -> Estimate:
    """Return a figure with its interval and standard error, all NaN if the figure is undefined."""
    draws = figure.draws[~np.isnan(figure.draws)]
    if np.isnan(figure.value) or len(draws) < 2:
        return Estimate(figure.value, np.nan, np.nan, np.nan)
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = figure.bounds(np.quantile(draws, tails), tails)
    freedom = figure.freedom if np.isfinite(figure.freedom) else None
    return Estimate(figure.value, float(low), float(high), figure.stderr, freedom)


def p_value(figure: TwoLevel) -> float:
    """Return the two-sided p-value of a difference of 0: twice the share of the draws beyond 0.

    The draws are widened as the bounds of the interval are, so that the 95% interval holds 0 where p is above
    0.05. NaN if the figure is undefined.
    """
    draws = figure.draws[~np.isnan(figure.draws)]
    if np.isnan(figure.value) or len(draws) < 2:
        return float("nan")
    # Take the tail on the side of 0: sorted draws with their probabilities, from the outermost to the median.
    sign = 1.0 if figure.value >= 0 else -1.0
    above = replace(figure, value=sign * figure.value)
    ordered = np.sort(sign * draws)
    tails = np.arange(1, len(ordered) + 1) / (len(ordered) + 1)
    half = tails < 0.5
    beyond = int((above.bounds(ordered[half], tails[half]) <= 0).sum())
    return min(1.0, 2 * (beyond + 1) / (len(ordered) + 1))


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return p-values adjusted for their number (Holm 1979). NaN counts as no test and stays NaN."""
    adjusted, largest = dict.fromkeys(p_values, np.nan), 0.0
    tested = sorted((p, name) for name, p in p_values.items() if not np.isnan(p))
    for rank, (p, name) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[name] = largest
    return adjusted
