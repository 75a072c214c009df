"""Scores of a section's models and paired differences between their arms, all from counts per item.

Every figure is a share between 0 and 1, NaN where there is no case. A language's score is pooled (micro) over
its items, a mean is over the languages that have a case (macro). Intervals are percentile bootstrap intervals
(Efron and Tibshirani 1993, chapter 13) over items: one draw resamples the document ids, the same for all
models, so that differences are paired (Koehn 2004), and the same for all languages with these ids, because
parallel items are hard or easy together. The intervals say nothing about training seeds; the spread over
seeds stands beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from midalign import record
from midalign.leaderboard.sections import BoardRow, BoardSection, language_sets
from midalign.leaderboard.statistics import (
    Estimate,
    Scores,
    bootstrap,
    estimate,
    mean_defined,
    mean_scores,
    metric_shares,
)

_HEADLINE = 0
"""Among a family's metrics."""
_GAP_SETS = ("non-supervised", "aligned", "unseen")
Measured = tuple[int, int, str, str | None]
"""Layer, candidates, pooling and the candidates' digest: accuracies compare where all are equal."""


@dataclass(frozen=True)
class RetrievalFigures:
    """Pair retrieval accuracy by language: before training (the section's base) and of this model.

    `before` is empty where the base was not measured alike. Means of the seeds that were measured alike.
    """

    layer: int
    candidates: int
    pooling: str
    candidates_digest: str | None
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class ModelFigures:
    """A row: means over its seeds. Keys of `means`: see `language_sets`."""

    label: str
    arm: str
    recipe: str | None
    seeds: list[int | None]
    engine: str
    dtype: str
    training_dtype: str | None
    """None where it is not known."""
    devices: list[str]
    records: list[str]
    means: dict[str, dict[str, Estimate]]
    """Metric -> set of languages -> mean."""
    spread: dict[str, list[float]]
    """Set of languages -> the headline's least and greatest seed."""
    gap: dict[str, Estimate]
    """Transfer gap: mean over supervised languages minus the set's; empty without supervised languages."""
    retrieval: list[RetrievalFigures]
    """One entry per way of measuring (layer, candidates, pooling): seeds may be aligned at several layers."""
    languages: dict[str, dict[str, Estimate]]
    """Language -> metric -> score."""
    without_repeated: dict[str, float]
    """Language -> the headline over the items that stand in no training split, where that is known."""
    cut_off: int | None
    """Outputs that reached the token limit, in all languages and seeds; None where a record does not know."""
    overlap: list[str]
    """Overlaps of the model's training text and the test text, in words."""
    overlap_unchecked: list[str]
    """Training text that was not compared with the test text, in words; empty in older records."""


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline of the same recipe, over the seeds that both have."""

    model: str
    baseline: str
    seeds: list[int | None]
    paired_seeds: bool
    """False when the two share no seed: then all seeds of both count."""
    same_engine: bool
    means: dict[str, dict[str, Estimate]]
    """Metric -> set of languages -> difference of the means."""
    by_seed: dict[str, list[float]]
    """Set of languages -> the headline's difference for each of `seeds`; empty unless paired."""
    languages: dict[str, dict[str, Estimate]]
    baseline_gap: dict[str, Estimate]
    gap_closed: dict[str, Estimate | None]
    """Set of languages -> (this - baseline) / baseline's gap; None unless the gap's interval lies above 0."""
    gap_closed_languages: dict[str, Estimate | None]


def compare_models(section: BoardSection) -> tuple[list[ModelFigures], list[Difference]]:
    """The section's rows, and each arm that has a baseline against it."""
    scores = bootstrap(section)
    models = [_model(section, row, scores) for row in section.rows]
    differences = [
        _difference(section, row, baseline, scores) for row, baseline in arms_with_baseline(section)
    ]
    return models, differences


def arms_with_baseline(section: BoardSection) -> list[tuple[BoardRow, BoardRow]]:
    """Each arm that has a baseline, with it."""
    return [
        (row, baseline)
        for row in section.rows
        if row.arm not in ("base", "baseline") and (baseline := baseline_of(section, row))
    ]


def baseline_of(section: BoardSection, row: BoardRow) -> BoardRow | None:
    """Return the baseline of the row's recipe, if possible by the same engine and dtype.

    A baseline that is known to be trained in another dtype is none.
    """
    candidates = [
        other
        for other in section.rows
        if other.arm == "baseline"
        and other.baseline == row.baseline
        and (other.training_dtype == row.training_dtype or None in (other.training_dtype, row.training_dtype))
    ]
    # A known dtype first, then the engine.
    candidates.sort(
        key=lambda other: (other.training_dtype != row.training_dtype, other.engine != row.engine)
    )
    return next(iter(candidates), None)


def _indices(section: BoardSection) -> dict[str, list[int]]:
    codes = section.languages
    return {name: [codes.index(code) for code in members] for name, members in language_sets(section).items()}


def _means(
    section: BoardSection, scores: Scores, sets: Mapping[str, list[int]]
) -> dict[str, dict[str, Estimate]]:
    return {
        metric: {
            name: estimate(float(mean_defined(scores.points[of, m])), mean_defined(scores.draws[:, of, m]))
            for name, of in sets.items()
        }
        for m, metric in enumerate(section.metrics)
    }


def _by_language(section: BoardSection, scores: Scores) -> dict[str, dict[str, Estimate]]:
    return {
        code: {
            metric: estimate(scores.points[i, m], scores.draws[:, i, m])
            for m, metric in enumerate(section.metrics)
        }
        for i, code in enumerate(section.languages)
    }


def _gaps(
    section: BoardSection, scores: Scores, sets: Mapping[str, list[int]]
) -> dict[str, tuple[float, np.ndarray]]:
    """Set -> transfer gap of the headline and its draws; nothing without supervised languages, and nothing
    where the scores of two languages cannot be compared."""
    if "supervised" not in sets or not section.scorer.COMPARABLE:
        return {}
    points, draws = scores.points[:, _HEADLINE], scores.draws[:, :, _HEADLINE]
    supervised = sets["supervised"]
    return {
        name: (
            float(mean_defined(points[supervised]) - mean_defined(points[of])),
            mean_defined(draws[:, supervised]) - mean_defined(draws[:, of]),
        )
        for name, of in sets.items()
    }


def _model(section: BoardSection, row: BoardRow, scores: Mapping[str, Scores]) -> ModelFigures:
    sets = _indices(section)
    seeds = [scores[run.file] for run in row.runs]
    mean = mean_scores(seeds)
    gaps = _gaps(section, mean, {name: of for name, of in sets.items() if name in (*_GAP_SETS, "supervised")})
    by_seed = {
        name: [float(mean_defined(s.points[of, _HEADLINE])) for s in seeds] for name, of in sets.items()
    }
    engine, dtype = row.engine
    recipe = row.runs[0].record.recipe
    return ModelFigures(
        label=row.label,
        arm=row.arm,
        recipe=recipe.name if recipe and row.arm != "base" else None,
        seeds=[run.record.seed for run in row.runs],
        engine=engine,
        dtype=dtype,
        training_dtype=row.training_dtype,
        devices=sorted({run.record.engine.device for run in row.runs}),
        records=[run.file for run in row.runs],
        means=_means(section, mean, sets),
        spread={name: [min(values), max(values)] for name, values in by_seed.items()},
        gap={name: estimate(*gaps[name]) for name in _GAP_SETS if name in gaps},
        retrieval=_retrieval(section, row),
        languages=_by_language(section, mean),
        without_repeated=_without_repeated(section, row),
        cut_off=_cut_off(section, row),
        overlap=_overlap(row),
        overlap_unchecked=_overlap_unchecked(row),
    )


def _cut_off(section: BoardSection, row: BoardRow) -> int | None:
    counts = [run.task(code).cut_off for run in row.runs for code in section.languages]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _without_repeated(section: BoardSection, row: BoardRow) -> dict[str, float]:
    known = [code for code in section.languages if all(code in run.unrepeated for run in row.runs)]
    return {
        code: float(
            mean_defined([metric_shares(section, run.unrepeated[code])[_HEADLINE] for run in row.runs])
        )
        for code in known
    }


def _overlap(row: BoardRow) -> list[str]:
    """Return the overlaps of training text and test text in words."""
    return sorted({one.sentence for run in row.runs for one in run.record.known_overlaps})


def _overlap_unchecked(row: BoardRow) -> list[str]:
    """Return the training text that was not compared with the test text, in words."""
    checks = [run.record.overlap for run in row.runs]
    return sorted({text for check in checks if check is not None for text in check.unchecked})


def _retrieval(section: BoardSection, row: BoardRow) -> list[RetrievalFigures]:
    """Return the retrieval of a row, one entry per way of measuring, lower layers first."""
    alike: dict[Measured, list[record.Retrieval]] = {}
    for measured in (run.record.retrieval for run in row.runs):
        if measured:
            alike.setdefault(_measured(measured), []).append(measured)
    return [
        RetrievalFigures(
            *how,
            before=_mean_accuracy([one.base_accuracy for one in alike[how]]) or _base_accuracy(section, how),
            after=_mean_accuracy([one.accuracy for one in alike[how]]),
        )
        for how in sorted(alike, key=lambda how: (*how[:3], how[3] or ""))
    ]


def _measured(one: record.Retrieval) -> Measured:
    return one.layer, one.candidates, one.pooling, one.candidates_digest


def _base_accuracy(section: BoardSection, how: Measured) -> dict[str, float]:
    """Return the accuracy in the section's base record, empty where it was not measured alike."""
    for run in (run for row in section.rows if row.arm == "base" for run in row.runs):
        if run.record.retrieval and _measured(run.record.retrieval) == how:
            return _mean_accuracy([run.record.retrieval.accuracy])
    return {}


def _mean_accuracy(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of the seeds for the languages that each of them has."""
    codes = sorted(set.intersection(*(set(one) for one in measured)))
    return {code: float(np.mean([one[code] for one in measured])) for code in codes}


def _by_seed(row: BoardRow, scores: Mapping[str, Scores]) -> dict[int | None, Scores]:
    return {run.record.seed: scores[run.file] for run in row.runs}


def seed_change(row: BoardRow, baseline: BoardRow, scores: Mapping[str, Scores]) -> tuple[Scores, Scores]:
    """An arm minus its baseline, and the latter, over the seeds that both have, all if they share none."""
    by_seed, against = _by_seed(row, scores), _by_seed(baseline, scores)
    shared = [seed for seed in by_seed if seed in against]
    this = mean_scores([by_seed[seed] for seed in shared or by_seed])
    other = mean_scores([against[seed] for seed in shared or against])
    return Scores(this.points - other.points, this.draws - other.draws), other


def _difference(
    section: BoardSection, row: BoardRow, baseline: BoardRow, scores: Mapping[str, Scores]
) -> Difference:
    by_seed, against = _by_seed(row, scores), _by_seed(baseline, scores)
    shared = [seed for seed in by_seed if seed in against]
    change, other = seed_change(row, baseline, scores)

    codes, sets = section.languages, _indices(section)
    gap_sets = {name: of for name, of in sets.items() if name in (*_GAP_SETS, "supervised")}
    gap_sets |= {code: [i] for i, code in enumerate(codes) if section.role(code) != "supervised"}
    gaps = _gaps(section, other, gap_sets)
    closed = {
        name: _ratio(_headline(change, gap_sets[name]), gaps[name]) for name in gaps if name != "supervised"
    }
    return Difference(
        model=row.label,
        baseline=baseline.label,
        seeds=shared or list(by_seed),
        paired_seeds=bool(shared),
        same_engine=row.engine == baseline.engine,
        means=_means(section, change, sets),
        by_seed={
            name: [
                float(mean_defined((by_seed[seed].points - against[seed].points)[of, _HEADLINE]))
                for seed in shared
            ]
            for name, of in sets.items()
        },
        languages=_by_language(section, change),
        baseline_gap={name: estimate(*gaps[name]) for name in _GAP_SETS if name in gaps},
        gap_closed={name: closed[name] for name in _GAP_SETS if name in closed},
        gap_closed_languages={code: closed[code] for code in codes if code in closed},
    )


def _headline(scores: Scores, of: list[int]) -> tuple[float, np.ndarray]:
    return float(mean_defined(scores.points[of, _HEADLINE])), mean_defined(scores.draws[:, of, _HEADLINE])


def _ratio(change: tuple[float, np.ndarray], gap: tuple[float, np.ndarray]) -> Estimate | None:
    """Gap closed; None where the gap's interval holds 0 (the ratio has no bounds) or lies below it."""
    if not estimate(*gap).low > 0:
        return None
    # The interval leaves out draws in the tail, where a gap of 0 may still occur.
    draws = change[1] / np.where(gap[1] == 0, np.nan, gap[1])
    return estimate(change[0] / gap[0], draws[np.isfinite(draws)])
