"""COMET's scores of a section's models, and differences between its arms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midalign.leaderboard.compare import arms_with_baseline, seed_change
from midalign.leaderboard.load import Run
from midalign.leaderboard.sections import BoardSection, language_sets
from midalign.leaderboard.statistics import (
    DRAWS,
    Estimate,
    Scores,
    SeedScores,
    estimate,
    mean_of_seeds,
    mean_over_languages,
)
from midalign.metrics.bootstrap import draw_weights


@dataclass(frozen=True)
class CometDifference:
    """Difference of an arm from its baseline in COMET's score."""

    model: str
    baseline: str
    means: dict[str, Estimate]
    """Set of directions -> mean of the differences."""
    languages: dict[str, Estimate]
    """Direction -> difference."""


@dataclass(frozen=True)
class CometComparison:
    """COMET's scores of a section, on the directions where one COMET model has scored every record.

    Scores of two directions do not compare, so models have a score per direction and no mean.
    """

    name: str
    digest: str
    version: str
    directions: list[str]
    models: dict[str, dict[str, Estimate]]
    """Label of a row -> direction -> score."""
    differences: list[CometDifference]


def compare_by_comet(section: BoardSection) -> CometComparison | None:
    """Return COMET's scores of a section and the differences between its arms.

    None if no direction has scores of all records by one COMET model.
    """
    runs = [run for row in section.rows for run in row.runs]
    # Take the COMET model that has scored the most directions in every record.
    by_model: dict[tuple[str, str], list[str]] = {}
    for code in section.languages:
        scored_by = [run.task(code).comet for run in runs]
        known = {(score.digest, score.version) for score in scored_by if score is not None}
        if len(known) == 1 and None not in scored_by:
            by_model.setdefault(known.pop(), []).append(code)
    if not by_model:
        return None
    directions = max(by_model.values(), key=len)
    scored = section.first.task(directions[0]).comet
    assert scored is not None

    # Resample with the draws of the other metrics. A trailing axis of one metric lets the means and
    # differences of the other metrics serve here too.
    points = np.array([[run.comet[code].mean() / 1e6 for code in directions] for run in runs])
    draws = np.stack([_comet_draws(section, runs, code) for code in directions], axis=-1)
    scores = {run.file: Scores(points[i, :, None], draws[i, :, :, None]) for i, run in enumerate(runs)}

    sets = {
        name: [directions.index(code) for code in members if code in directions]
        for name, members in language_sets(section).items()
    }
    differences = []
    for row, baseline in arms_with_baseline(section):
        change, _ = seed_change(row, baseline, scores)
        differences.append(
            CometDifference(
                model=row.label,
                baseline=baseline.label,
                means={
                    name: estimate(mean_over_languages(change, places, 0))
                    for name, places in sets.items()
                    if places
                },
                languages=_estimates(directions, change),
            )
        )
    return CometComparison(
        name=scored.name,
        digest=scored.digest,
        version=scored.version,
        directions=directions,
        models={
            row.label: _estimates(directions, mean_of_seeds([scores[run.file] for run in row.runs]))
            for row in section.rows
        },
        differences=differences,
    )


def comet_sets(section: BoardSection, comet: CometComparison) -> dict[str, list[str]]:
    """Return the language sets, reduced to the directions that COMET has scored."""
    return {
        name: [code for code in members if code in comet.directions]
        for name, members in language_sets(section).items()
    }


def _comet_draws(section: BoardSection, runs: Sequence[Run], code: str) -> np.ndarray:
    """Return (runs, DRAWS) means of a direction, on the draws of items of the other metrics."""
    scores = np.stack([run.comet[code] for run in runs], axis=1) / 1e6
    seed = int(section.first.ids[code][:8], 16)
    drawn = [weights @ scores for weights in draw_weights(len(scores), DRAWS, seed)]
    return np.concatenate(drawn).T / len(scores)


def _estimates(codes: Sequence[str], scores: SeedScores) -> dict[str, Estimate]:
    return {code: estimate(mean_over_languages(scores, [i], 0)) for i, code in enumerate(codes)}
