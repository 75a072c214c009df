"""Scores of a sweep's points relative to their baselines, from records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midalign.errors import RecordError
from midalign.languages import ROLES
from midalign.leaderboard.load import Run, load_runs
from midalign.leaderboard.sections import BoardRow, BoardSection
from midalign.leaderboard.statistics import (
    Estimate,
    Scores,
    bootstrap,
    estimate,
    mean_defined,
    mean_of_seeds,
    mean_over_languages,
)
from midalign.sweep.points import BASELINE, Point


@dataclass(frozen=True)
class PointResult:
    """Scores of a point and their differences to its baseline, in one group of tasks."""

    group: str
    label: str
    seeds: list[int]
    scores: dict[str, float]
    """Mean headline score by role of the languages in the point."""
    change: dict[str, Estimate]
    """Difference to the baseline on the same languages, with the interval over documents and seeds."""
    by_seed: dict[str, list[float]]
    """Difference to the baseline per seed."""
    losses: dict[str, dict[str, tuple[float, Estimate]]]
    """Metric that says where points are lost -> role -> mean score and difference to the baseline.

    Roles without a case are missing.
    """


def read_results(points: Sequence[Point], folder: Path) -> list[PointResult]:
    """Return the scores of all points from the records in `folder`.

    Raises RecordError for missing, duplicate or incomparable records.
    """
    wanted = {
        (*scored, seed)
        for point in points
        for scored in (point.scored, (point.against.name, BASELINE))
        for seed in point.recipe.seeds
    }
    by_group: dict[str, dict[tuple[str, str, int | None], Run]] = {}
    for run in load_runs(folder):
        name = (run.record.recipe.name if run.record.recipe else "", run.record.arm, run.record.seed)
        # No sweep scores constrained decoding or other wordings.
        other = run.record.decoding.get("regime", "free") != "free" or run.record.wording != 1
        if name in wanted and not other:  # an earlier version of the sweep may have left other records
            known = by_group.setdefault(run.group, {}).setdefault(name, run)
            if known is not run:
                raise RecordError(
                    f"{known.file} and {run.file} in {folder} are two records of arm {name[1]} of {name[0]}, "
                    f"seed {name[2]}. Remove one of them and rerun the same sweep"
                )
    results = [result for group, runs in by_group.items() for result in _group_results(points, group, runs)]
    for point in points:
        if point.label not in {result.label for result in results}:
            raise _no_record(f"{point.recipe.task}", *point.scored, point.recipe.seeds[0])
    return results


def _no_record(task: str, recipe: str, arm: str, seed: int) -> RecordError:
    return RecordError(
        f"No record of {task} for arm {arm} of {recipe}, seed {seed}: "
        f"rerun the same sweep, which keeps finished work"
    )


def _group_results(
    points: Sequence[Point], group: str, runs: Mapping[tuple[str, str, int | None], Run]
) -> Iterator[PointResult]:
    """Yield the results of the points whose baseline has records in this group of tasks."""
    first, *others = runs.values()
    for other in others:
        if other.ids != first.ids:
            raise RecordError(
                f"{first.file} and {other.file} have different items of {group} and cannot be compared. "
                f"Remove the older one and rerun the same sweep"
            )
    section = BoardSection(group, (), (), (BoardRow("all", "all", tuple(runs.values())),))
    scores = bootstrap(section)

    def scored(recipe: str, arm: str, seed: int) -> Scores:
        if (recipe, arm, seed) not in runs:
            raise _no_record(group, recipe, arm, seed)
        return scores[runs[recipe, arm, seed].file]

    for point in points:
        if not any((point.against.name, BASELINE, seed) in runs for seed in point.recipe.seeds):
            continue
        roles = BoardSection(group, tuple(point.recipe.supervised), tuple(point.recipe.aligned), section.rows)
        places = {
            role: [place for place, code in enumerate(section.languages) if roles.role(code) == role]
            for role in ROLES
        }
        places = {role: indices for role, indices in places.items() if indices}
        pairs = [
            (scored(*point.scored, seed), scored(point.against.name, BASELINE, seed))
            for seed in point.recipe.seeds
        ]
        changes = [arm.minus(base) for arm, base in pairs]
        change, mean = mean_of_seeds(changes), mean_of_seeds([arm for arm, _ in pairs])
        yield PointResult(
            group,
            point.label,
            list(point.recipe.seeds),
            {role: mean_over_languages(mean, indices, 0).value for role, indices in places.items()},
            {role: estimate(mean_over_languages(change, indices, 0)) for role, indices in places.items()},
            {
                role: [float(mean_defined(of_seed.points[indices, 0])) for of_seed in changes]
                for role, indices in places.items()
            },
            {
                metric: {
                    role: (mean_over_languages(mean, indices, m).value, estimate(figure))
                    for role, indices in places.items()
                    if not np.isnan((figure := mean_over_languages(change, indices, m)).value)
                }
                for m, metric in enumerate(section.metrics)
                if metric in section.scorer.LOSS_METRICS
            },
        )
