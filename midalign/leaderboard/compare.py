"""Scores of a section's models and paired differences between their arms, all from counts per item.

Every figure is a share between 0 and 1, or NaN without a case. A language's score is pooled (micro) over its
items. A mean is over the languages that have a case (macro). Intervals are paired bootstrap intervals over
documents and, if there are several, training seeds. See `midalign.leaderboard.statistics`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from midalign import record
from midalign.leaderboard.sections import BoardRow, BoardSection, language_sets
from midalign.leaderboard.statistics import (
    Estimate,
    Scores,
    SeedScores,
    TwoLevel,
    bootstrap,
    estimate,
    holm,
    mean_defined,
    mean_of_seeds,
    mean_over_languages,
    metric_shares,
    p_value,
    ratio,
    unpaired_difference,
)
from midalign.leaderboard.trust import Trust, weakest

_HEADLINE = 0
"""Among a family's metrics."""
_GAP_SETS = ("non-supervised", "aligned", "unseen")
MOST_PAIRED_ROWS = 20
"""Rows of a section up to which every pair is compared: 190 pairs."""
Measured = tuple[int, int, str, str | None]
"""Layer, candidates, pooling and digest of the candidates. Accuracies compare if all are equal."""


@dataclass(frozen=True)
class RetrievalFigures:
    """Pair retrieval accuracy per language, before training (the section's base) and of this model.

    Means over the seeds that were measured in the same way. `before` is empty if the base was not.
    """

    layer: int
    candidates: int
    pooling: str
    candidates_digest: str | None
    before: dict[str, float]
    after: dict[str, float]


@dataclass(frozen=True)
class ModelFigures:
    """A row's figures: means over its seeds. The keys of `means` are those of `language_sets`."""

    label: str
    arm: str
    recipe: str | None
    seeds: list[int | None]
    engine: str
    dtype: str
    training_dtype: str | None
    """None if not known."""
    devices: list[str]
    records: list[str]
    means: dict[str, dict[str, Estimate]]
    """Metric -> set of languages -> mean."""
    spread: dict[str, list[float]]
    """Set of languages -> the headline's lowest and highest seed."""
    gap: dict[str, Estimate]
    """Transfer gap: mean over supervised languages minus the set's. Empty without supervised languages."""
    retrieval: list[RetrievalFigures]
    """One entry per layer, candidates and pooling, since seeds may be aligned at different layers."""
    languages: dict[str, dict[str, Estimate]]
    """Language -> metric -> score."""
    without_repeated: dict[str, float]
    """Language -> the headline over the items that occur in no training split, if known."""
    cut_off: int | None
    """Outputs that reached the token limit, over all languages and seeds. None if a record lacks it."""
    overlap: list[str]
    """Overlaps of the model's training text and the test text, in words."""
    overlap_unchecked: list[str]
    """Training text that was not compared with the test text, in words. Empty in older records."""
    trust: Trust = "checked"
    """The weakest trust in its records."""


@dataclass(frozen=True)
class Difference:
    """A row minus another, usually an arm minus the baseline of its recipe, over the seeds that both have."""

    model: str
    baseline: str
    seeds: list[int | None]
    paired_seeds: bool
    """False if the two share no seed. Then all seeds of both count."""
    same_engine: bool
    means: dict[str, dict[str, Estimate]]
    """Metric -> set of languages -> difference of the means."""
    by_seed: dict[str, list[float]]
    """Set of languages -> the headline's difference per seed. Empty unless paired."""
    languages: dict[str, dict[str, Estimate]]
    p_values: dict[str, float]
    """Language -> p-value of the headline's difference."""
    holm: dict[str, float]
    """The same, adjusted for the number of languages (Holm 1979)."""
    baseline_gap: dict[str, Estimate]
    gap_closed: dict[str, Estimate | None]
    """Set of languages -> (model - baseline) / baseline's gap.

    None unless the difference is defined and the gap's interval lies above 0.
    """
    gap_closed_languages: dict[str, Estimate | None]


def compare_models(
    section: BoardSection, scores: Mapping[str, Scores] | None = None
) -> tuple[list[ModelFigures], list[Difference]]:
    """Return the figures of the section's rows, and the difference of each arm from its baseline.

    `scores` are those of `bootstrap`, if the caller has them already.
    """
    scores = scores or bootstrap(section)
    models = [_model(section, row, scores) for row in section.rows]
    differences = [
        row_difference(section, row, baseline, scores) for row, baseline in arms_with_baseline(section)
    ]
    return models, differences


def compare_other_pairs(
    section: BoardSection, scores: Mapping[str, Scores], differences: Sequence[Difference]
) -> list[Difference]:
    """Return the differences of all pairs of rows but those given. Empty for more than MOST_PAIRED_ROWS.

    The later row is the difference's model, the earlier one its baseline.
    """
    if len(section.rows) > MOST_PAIRED_ROWS:
        return []
    known = {frozenset((difference.model, difference.baseline)) for difference in differences}
    return [
        row_difference(section, row, other, scores)
        for other, row in combinations(section.rows, 2)
        if frozenset((row.label, other.label)) not in known
    ]


def arms_with_baseline(section: BoardSection) -> list[tuple[BoardRow, BoardRow]]:
    """Return each arm that has a baseline, together with the baseline."""
    return [
        (row, baseline)
        for row in section.rows
        if row.arm not in ("base", "baseline") and (baseline := baseline_of(section, row))
    ]


def baseline_of(section: BoardSection, row: BoardRow) -> BoardRow | None:
    """Return the baseline of the row's recipe, preferably of the same engine and dtype.

    A baseline that is known to be trained in another dtype does not count.
    """
    candidates = [
        other
        for other in section.rows
        if other.arm == "baseline"
        and other.baseline == row.baseline
        and (other.training_dtype == row.training_dtype or None in (other.training_dtype, row.training_dtype))
    ]
    # Prefer a known and equal dtype of training, then an equal engine.
    candidates.sort(
        key=lambda other: (other.training_dtype != row.training_dtype, other.engine != row.engine)
    )
    return next(iter(candidates), None)


def _places(section: BoardSection) -> dict[str, list[int]]:
    codes = section.languages
    return {name: [codes.index(code) for code in members] for name, members in language_sets(section).items()}


def _means(
    section: BoardSection, scores: SeedScores, sets: Mapping[str, list[int]]
) -> dict[str, dict[str, Estimate]]:
    return {
        metric: {name: estimate(mean_over_languages(scores, places, m)) for name, places in sets.items()}
        for m, metric in enumerate(section.metrics)
    }


def _by_language(section: BoardSection, scores: SeedScores) -> dict[str, dict[str, Estimate]]:
    return {
        code: {
            metric: estimate(mean_over_languages(scores, [i], m)) for m, metric in enumerate(section.metrics)
        }
        for i, code in enumerate(section.languages)
    }


def _gaps(section: BoardSection, scores: SeedScores, sets: Mapping[str, list[int]]) -> dict[str, TwoLevel]:
    """Return the headline's transfer gap per set of languages.

    Empty without supervised languages, and in families whose scores do not compare between languages.
    """
    if "supervised" not in sets or not section.scorer.COMPARABLE:
        return {}
    return {
        name: mean_over_languages(scores, sets["supervised"], _HEADLINE, minus=places)
        for name, places in sets.items()
    }


def _model(section: BoardSection, row: BoardRow, scores: Mapping[str, Scores]) -> ModelFigures:
    sets = _places(section)
    seeds = [scores[run.file] for run in row.runs]
    mean = mean_of_seeds(seeds)
    gap_sets = {name: sets[name] for name in sets if name in (*_GAP_SETS, "supervised")}
    gaps = _gaps(section, mean, gap_sets)
    by_seed = {
        name: [float(mean_defined(seed.points[places, _HEADLINE])) for seed in seeds]
        for name, places in sets.items()
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
        gap={name: estimate(gaps[name]) for name in _GAP_SETS if name in gaps},
        retrieval=_retrieval(section, row),
        languages=_by_language(section, mean),
        without_repeated=_without_repeated(section, row),
        cut_off=_cut_off(section, row),
        overlap=_overlap(row),
        overlap_unchecked=_overlap_unchecked(row),
        trust=weakest(run.trust for run in row.runs),
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
    return sorted({overlap.sentence for run in row.runs for overlap in run.record.known_overlaps})


def _overlap_unchecked(row: BoardRow) -> list[str]:
    """Return the training text that was not compared with the test text, in words."""
    checks = [run.record.overlap for run in row.runs]
    return sorted({text for check in checks if check is not None for text in check.unchecked})


def _retrieval(section: BoardSection, row: BoardRow) -> list[RetrievalFigures]:
    """Return a row's retrieval, one entry per `Measured`, lowest layer first."""
    alike: dict[Measured, list[record.Retrieval]] = {}
    for measured in (run.record.retrieval for run in row.runs):
        if measured:
            alike.setdefault(_measured(measured), []).append(measured)
    return [
        RetrievalFigures(
            *how,
            before=_mean_accuracy([seed.base_accuracy for seed in alike[how]])
            or _base_accuracy(section, how),
            after=_mean_accuracy([seed.accuracy for seed in alike[how]]),
        )
        for how in sorted(alike, key=lambda how: (*how[:3], how[3] or ""))
    ]


def _measured(retrieval: record.Retrieval) -> Measured:
    return retrieval.layer, retrieval.candidates, retrieval.pooling, retrieval.candidates_digest


def _base_accuracy(section: BoardSection, how: Measured) -> dict[str, float]:
    """Return the accuracy in the section's base record, or nothing if it was measured differently."""
    for run in (run for row in section.rows if row.arm == "base" for run in row.runs):
        if run.record.retrieval and _measured(run.record.retrieval) == how:
            return _mean_accuracy([run.record.retrieval.accuracy])
    return {}


def _mean_accuracy(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean over seeds, for the languages that all of them have."""
    codes = sorted(set.intersection(*map(set, seeds)))
    return {code: float(np.mean([accuracy[code] for accuracy in seeds])) for code in codes}


def _by_seed(row: BoardRow, scores: Mapping[str, Scores]) -> dict[int | None, Scores]:
    return {run.record.seed: scores[run.file] for run in row.runs}


def seed_change(
    row: BoardRow, baseline: BoardRow, scores: Mapping[str, Scores]
) -> tuple[SeedScores, SeedScores]:
    """Return an arm's scores minus its baseline's, and the baseline's.

    Both are means over the shared seeds, or over all seeds if there are none.
    """
    by_seed, against = _by_seed(row, scores), _by_seed(baseline, scores)
    shared = [seed for seed in by_seed if seed in against]
    reference = mean_of_seeds([against[seed] for seed in shared or against])
    if not shared:
        return unpaired_difference(list(by_seed.values()), reference.runs), reference
    return mean_of_seeds([by_seed[seed].minus(against[seed]) for seed in shared]), reference


def row_difference(
    section: BoardSection, row: BoardRow, baseline: BoardRow, scores: Mapping[str, Scores]
) -> Difference:
    """Return a row minus another of the section. `scores` are those of `bootstrap`."""
    by_seed, against = _by_seed(row, scores), _by_seed(baseline, scores)
    shared = [seed for seed in by_seed if seed in against]
    change, reference = seed_change(row, baseline, scores)

    # The baseline's gap of each set and of each language that is not supervised, and its closed share.
    codes, sets = section.languages, _places(section)
    gap_sets = {name: sets[name] for name in sets if name in (*_GAP_SETS, "supervised")}
    gap_sets |= {code: [i] for i, code in enumerate(codes) if section.role(code) != "supervised"}
    gaps = _gaps(section, reference, gap_sets)
    closed = {
        name: _closed(mean_over_languages(change, gap_sets[name], _HEADLINE), gaps[name])
        for name in gaps
        if name != "supervised"
    }
    p_values = {code: p_value(mean_over_languages(change, [i], _HEADLINE)) for i, code in enumerate(codes)}
    return Difference(
        model=row.label,
        baseline=baseline.label,
        seeds=shared or list(by_seed),
        paired_seeds=bool(shared),
        same_engine=row.engine == baseline.engine,
        means=_means(section, change, sets),
        by_seed={
            name: [
                float(mean_defined((by_seed[seed].points - against[seed].points)[places, _HEADLINE]))
                for seed in shared
            ]
            for name, places in sets.items()
        },
        languages=_by_language(section, change),
        p_values=p_values,
        holm=holm(p_values),
        baseline_gap={name: estimate(gaps[name]) for name in _GAP_SETS if name in gaps},
        gap_closed={name: closed[name] for name in _GAP_SETS if name in closed},
        gap_closed_languages={code: closed[code] for code in codes if code in closed},
    )


def _closed(change: TwoLevel, gap: TwoLevel) -> Estimate | None:
    """Return the share of the gap that the change closes.

    None if the change is undefined, or if the gap is undefined, its interval holds 0, where the ratio has no
    bounds, or its interval lies below 0.
    """
    if np.isnan(change.value) or not estimate(gap).low > 0:
        return None
    # The interval excludes draws in its tails, where a gap of 0 may still occur.
    return estimate(ratio(change, gap))
