"""The scores of a sweep's points beside their baselines, from records."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from midalign.errors import RecordError
from midalign.languages import ROLES
from midalign.leaderboard.compare import Estimate, Scores, bootstrap, estimate, mean_defined, mean_of
from midalign.leaderboard.load import Run, load
from midalign.leaderboard.sections import Row, Section
from midalign.sweep.points import BASELINE, Point


@dataclass(frozen=True)
class PointResult:
    """A point beside its baseline, in one group of tasks."""

    group: str
    label: str
    seeds: list[int]
    scores: dict[str, float]
    """Role of languages, as the point has them -> mean of the headline."""
    change: dict[str, Estimate]
    """The same minus the baseline's on the same languages, with the interval over items."""
    by_seed: dict[str, list[float]]


def read_results(points: Sequence[Point], folder: Path) -> list[PointResult]:
    """Return every point's scores with its baseline's, from the records in `folder`. Raises RecordError."""
    wanted = {
        (*scored, seed)
        for point in points
        for scored in (point.scored, (point.against.name, BASELINE))
        for seed in point.recipe.seeds
    }
    by_group: dict[str, dict[tuple[str, str, int | None], Run]] = {}
    for run in load(folder):
        name = (run.record.recipe.name if run.record.recipe else "", run.record.arm, run.record.seed)
        constrained = run.record.decoding.get("regime", "free") != "free"  # which no sweep asks for
        if name in wanted and not constrained:  # and not of an earlier form of the sweep
            known = by_group.setdefault(run.group, {}).setdefault(name, run)
            if known is not run:
                raise RecordError(
                    f"{known.file} and {run.file} in {folder} are two records of arm {name[1]} of {name[0]}, "
                    f"seed {name[2]}. Remove one, and give the same sweep once more"
                )
    found = [one for group, runs in by_group.items() for one in _of_group(points, group, runs)]
    for point in points:
        if point.label not in {one.label for one in found}:
            raise _no_record(f"{point.recipe.task}", *point.scored, point.recipe.seeds[0])
    return found


def _no_record(task: str, recipe: str, arm: str, seed: int) -> RecordError:
    return RecordError(
        f"No record of {task} for arm {arm} of {recipe}, seed {seed}: "
        f"give the same sweep once more, what is finished stays"
    )


def _of_group(
    points: Sequence[Point], group: str, runs: Mapping[tuple[str, str, int | None], Run]
) -> Iterator[PointResult]:
    """Yield the results of the points with this group's task, which identifies their baselines."""
    first, *others = runs.values()
    for other in others:
        if other.ids != first.ids:
            raise RecordError(
                f"{first.file} and {other.file} have other items of {group}, which cannot be compared. "
                f"Remove the older of the two, and give the same sweep once more"
            )
    section = Section(group, (), (), (Row("all", "all", tuple(runs.values())),))
    scores = bootstrap(section)

    def scored(recipe: str, arm: str, seed: int) -> Scores:
        if (recipe, arm, seed) not in runs:
            raise _no_record(group, recipe, arm, seed)
        return scores[runs[recipe, arm, seed].file]

    for point in points:
        if not any((point.against.name, BASELINE, seed) in runs for seed in point.recipe.seeds):
            continue
        own = Section(group, tuple(point.recipe.supervised), tuple(point.recipe.aligned), section.rows)
        places = {
            role: [place for place, code in enumerate(section.languages) if own.role(code) == role]
            for role in ROLES
        }
        places = {role: of for role, of in places.items() if of}
        pairs = [
            (scored(*point.scored, seed), scored(point.against.name, BASELINE, seed))
            for seed in point.recipe.seeds
        ]
        changes = [Scores(own.points - base.points, own.draws - base.draws) for own, base in pairs]
        change, mean = mean_of(changes), mean_of([own for own, _ in pairs])
        yield PointResult(
            group,
            point.label,
            list(point.recipe.seeds),
            {role: float(mean_defined(mean.points[of, 0])) for role, of in places.items()},
            {
                role: estimate(
                    float(mean_defined(change.points[of, 0])), mean_defined(change.draws[:, of, 0])
                )
                for role, of in places.items()
            },
            {
                role: [float(mean_defined(one.points[of, 0])) for one in changes]
                for role, of in places.items()
            },
        )
