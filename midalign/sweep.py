"""Many forms of one experiment, trained, scored on the dev split and put side by side.

What a point changes under `align` is an arm of one recipe, whatever else it changes is a recipe of its own. A
baseline is trained once for all recipes whose task side is the same, the aligned languages apart. A merged
point is the baseline with an adapter of alignment alone added to it.
"""

import csv
import io
import itertools
import json
import math
import shutil
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from midalign import adapter, record
from midalign.errors import RecipeError, RecordError, nearest
from midalign.files import write_atomically
from midalign.languages import ROLES
from midalign.leaderboard.load import Run, load_runs
from midalign.leaderboard.sections import BoardRow, BoardSection
from midalign.leaderboard.statistics import Estimate, Scores, bootstrap, estimate, mean_defined, mean_scores
from midalign.locks import locked
from midalign.merge import merge_adapters
from midalign.merge.weights import MergeWeights, path_part
from midalign.shipped import shipped_names, shipped_text
from midalign.train import recipe as recipes
from midalign.train import run as training
from midalign.train.recipe import Recipe

BASELINE = "baseline"
ALIGNED = "aligned"
"""The arm that changes nothing of the recipe's alignment."""
ALONE = "alone"
"""The arm of alignment alone, which is scored as merged into the baseline."""
FILES = (".tsv", ".jsonl", ".yaml")
"""Endings that a point's label leaves out."""
WIDTH = 36
"""Characters of a point's label in one line of the plot."""


class Grid(BaseModel):
    """`midalign sweep`'s file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: str
    """One of the package, or a path."""
    changes: dict[str, Any] = {}
    """Recipe keys, dots descend, that hold for all points."""
    grid: dict[str, list[Any]] = {}
    """Values of recipe keys: a point for each combination."""
    points: list[dict[str, Any]] = []
    """Further points, each the keys that it changes."""
    merged: list[Annotated[float, Field(gt=0)]] = []
    """How much of an adapter of alignment alone is added to the baseline of its seed: a point for each."""

    @field_validator("merged")
    @classmethod
    def _distinct(cls, merged: list[float]) -> list[float]:
        if len(set(merged)) < len(merged):
            raise ValueError("a weight stands twice")
        return merged


@dataclass(frozen=True)
class Point:
    """One form of the experiment: an arm of a recipe, and the baseline that it is held against."""

    label: str
    recipe: Recipe
    arm: str
    against: Recipe
    weights: MergeWeights | None = None
    """Of the baseline and the arm, where the point is both merged."""

    @property
    def scored(self) -> tuple[str, str]:
        """Recipe and arm that its records name."""
        return (self.against.name, f"merged {self.weights}") if self.weights else (self.recipe.name, self.arm)


@dataclass(frozen=True)
class Result:
    """A point beside its baseline, in one group of tasks."""

    group: str
    label: str
    seeds: list[int]
    scores: dict[str, float]
    """Role of languages, as the point has them -> mean of the headline."""
    change: dict[str, Estimate]
    """The same minus the baseline's on the same languages, with the interval over items."""
    by_seed: dict[str, list[float]]


def read(name: str) -> Grid:
    """Read a sweep of the package by name, or a YAML file. Raises RecipeError."""
    path = Path(name)
    shipped = shipped_names("sweeps")
    if name in shipped:
        text = shipped_text("sweeps", name)
    elif path.is_file():
        text = path.read_text("utf-8")
    else:
        raise RecipeError(
            f"No sweep {name!r}.{nearest(name, shipped)} In the package: {', '.join(shipped)}; "
            f"your own: midalign sweep PATH.yaml"
        )
    try:
        return Grid.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        known = nearest(where, Grid.model_fields) if problem["type"] == "extra_forbidden" else ""
        raise RecipeError(f"sweep {name}: {where}: {problem['msg']}.{known}") from None


def plan(grid: Grid, overrides: Sequence[str] = ()) -> list[Point]:
    """Return the points in order. Raises RecipeError for invalid recipes."""
    changes = _distinct([_dotted(change) for change in [*_combinations(grid.grid), *grid.points]])
    if not changes and not grid.merged:
        raise RecipeError(
            f"sweep {grid.name} has no points: give it a grid, such as grid: {{align.layer: [2, 4]}}"
        )
    _check_keys(grid, {key for change in changes for key in change}, overrides)
    by_recipe: dict[str, dict[str, dict[str, Any]]] = {}
    outside: dict[str, dict[str, Any]] = {}
    named: dict[str, dict[str, Any]] = {}
    for change in changes:
        own = {key: value for key, value in change.items() if not key.startswith("align.")}
        name = "-".join([grid.name, *([_label(own)] if own else [])])
        arm = {key.removeprefix("align."): v for key, v in change.items() if key not in own}
        _claim_name(grid, named, name, own)
        _claim_name(grid, named, f"{name}-{_label(arm) or ALIGNED}", change)
        outside[name] = own
        by_recipe.setdefault(name, {})[_label(arm) or ALIGNED] = arm
    if grid.merged:
        outside[grid.name] = {}
        by_recipe.setdefault(grid.name, {})[ALONE] = {"task": False}
    points: list[Point] = []
    baselines: dict[str, Recipe] = {}
    for name, arms in by_recipe.items():
        found = _recipe(grid, {**outside[name], "arms": {BASELINE: None, **arms}}, name, overrides)
        against = baselines.setdefault(_task_side(found), found)
        if against is not found:
            found = found.model_copy(update={"arms": arms})
        for one in (arm for arm in arms if arm != ALONE):
            parts = [_label(outside[name]), one if one != ALIGNED else ""]
            points.append(Point(", ".join(part for part in parts if part) or one, found, one, against))
        if ALONE in arms:
            mixes = ((f"merged={weight:g}", MergeWeights((1.0, weight))) for weight in grid.merged)
            points += [Point(label, found, ALONE, against, weights) for label, weights in mixes]
    _reject_equal_points(grid, points)
    return points


def _combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if not grid:
        return []
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _distinct(changes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the changes without repetitions, in whichever order these have their keys."""
    return list({json.dumps(change, sort_keys=True, default=str): change for change in changes}.values())


def _claim_name(grid: Grid, named: dict[str, dict[str, Any]], name: str, change: dict[str, Any]) -> None:
    """Give a name's file to a change; raise RecipeError if another change has it.

    File systems may not tell upper from lower case.
    """
    file = record.record_file_name(name)
    known = named.setdefault(file.casefold(), change)
    if known != change:
        raise RecipeError(
            f"sweep {grid.name}: {known} and {change} would both be called {file}. Rename what "
            f"they name, so that it differs in letters, digits, or the last folder and file of a path"
        )


def _reject_equal_points(grid: Grid, points: Sequence[Point]) -> None:
    """Raise RecipeError if two points train the same adapter, such as for weights of 1 and 1.0."""
    labels: dict[str, str] = {}
    for point in points:
        align = point.recipe.align_of(point.arm)
        trained = [
            point.recipe.model_dump(mode="json", exclude={"name", "arms", "output", "align"}),
            align and align.model_dump(mode="json"),
            str(point.weights),
        ]
        known = labels.setdefault(json.dumps(trained, sort_keys=True), point.label)
        if known != point.label:
            raise RecipeError(
                f"sweep {grid.name}: the points {known} and {point.label} train the same adapter. "
                f"Remove one: a value may be the recipe's own, or written in two ways"
            )


def _dotted(change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{align: {layer: 2}}` as `{align.layer: 2}`."""
    dotted: dict[str, Any] = {}
    for key, value in change.items():
        dotted |= (
            {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    return dotted


def _check_keys(grid: Grid, swept: Collection[str], overrides: Sequence[str]) -> None:
    """Raise RecipeError for keys that are the sweep's own, or that would make points be what they are not."""
    given = {override.partition("=")[0] for override in overrides}
    for key in sorted({*swept, *grid.changes, *given}):
        if key.partition(".")[0] in ("name", "arms"):
            raise RecipeError(
                f"sweep {grid.name}: {key} cannot be set, a sweep names its recipes and arms itself. "
                f"An arm is a point that changes align, such as {{align.layer: 2}}"
            )
    for key in sorted(swept):
        if key.partition(".")[0] in ("output", "evaluate", "evaluation"):
            raise RecipeError(
                f"sweep {grid.name}: {key} cannot differ between points, which are compared on the same "
                f"items in one folder. Set it for all: under changes, or {key}=VALUE behind the sweep"
            )
        over = sorted(one for one in given if f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}."))
        if over:
            raise RecipeError(
                f"sweep {grid.name}: {over[0]}=... touches {key}, which the points differ in. Leave it out, "
                f"or change the points in a file of your own"
            )


def _label(change: Mapping[str, Any]) -> str:
    """Return a label such as `layer=2,weight=0.3`, part of a file name."""
    return ",".join(f"{key.rpartition('.')[2]}={_word(value)}" for key, value in change.items())


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_word, value))
    if not (isinstance(value, str) and "/" in value):
        return str(value)
    path = Path(value)
    return f"{path.parent.name}_{path.stem if path.suffix in FILES else path.name}".lstrip("_")


def _recipe(grid: Grid, change: Mapping[str, Any], name: str, overrides: Sequence[str]) -> Recipe:
    """Return a point's recipe. By default it is scored on the validation split, without the base."""
    unless_said = {"evaluation.split": "validation", "evaluation.base": False}
    values = {**unless_said, **grid.changes, **change, "name": name}
    # YAML takes JSON's escapes of characters beyond 16 bits for two characters.
    given = [f"{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value in values.items()]
    output = f"output=sweeps/{grid.name}"
    loaded = recipes.load(grid.recipe, [output, *given, *overrides])
    if not loaded.evaluate:
        raise RecipeError(
            f"sweep {grid.name}: evaluate: false leaves nothing to compare; train alone with midalign-train"
        )
    if loaded.lora is None:
        raise RecipeError(
            f"sweep {grid.name}: lora: null trains whole models, and a sweep scores adapters of one base "
            f"together. Train them with midalign-train and score each with midalign eval --base FOLDER"
        )
    return loaded.model_copy(update={"output": loaded.output / name})


def _task_side(recipe: Recipe) -> str:
    """Return what a baseline depends on: all but alignment and the aligned languages.

    Where a measure ends the training, these decide too: it may be taken of their samples or held-out pairs.
    """
    aside = {"name", "arms", "output"}
    if recipe.monitor is None or recipe.monitor.stop_on is None:
        aside |= {"aligned", "align"}
    return json.dumps(recipe.model_dump(mode="json", exclude=aside), sort_keys=True)


def recipes_of(points: Sequence[Point]) -> list[Recipe]:
    """Return each recipe once, in order."""
    return list({point.recipe.name: point.recipe for point in points}.values())


def adapters(recipe: Recipe, points: Sequence[Point]) -> list[Path]:
    """Return the adapters of a trained recipe to score. Creates missing merged ones."""
    _check_dtypes(recipe, points)
    trained = [folder for arm, _, folder in training.runs(recipe) if arm != ALONE]
    merged = [point for point in points if point.recipe.name == recipe.name and point.weights]
    return [*trained, *(_merged(point, seed) for point in merged for seed in recipe.seeds)]


def _folders(point: Point, seed: int) -> list[Path]:
    """Return the adapter folders of the point's baseline and of its arm."""
    folders = {
        (arm, seed): folder
        for one in (point.against, point.recipe)
        for arm, seed, folder in training.runs(one)
    }
    return [folders[BASELINE, seed], folders[point.arm, seed]]


def _check_dtypes(recipe: Recipe, points: Sequence[Point]) -> None:
    """Raise RecipeError for a point that was trained in another dtype than its baseline."""
    for point in (point for point in points if point.recipe.name == recipe.name):
        for seed in recipe.seeds:
            folders = _folders(point, seed)
            manifests = [adapter.read_manifest(folder) for folder in folders]
            dtypes = [manifest.dtype if manifest else None for manifest in manifests]
            if None not in dtypes and dtypes[0] != dtypes[1]:
                raise RecipeError(
                    f"{folders[1]} was trained in {dtypes[1]} and its baseline {folders[0]} in {dtypes[0]}: "
                    f"their difference would also be that of the dtypes. Remove one of the folders and give "
                    f"the same sweep on a machine of the other's kind, or fix the dtype for all in another "
                    f"folder: dtype=float32 output=OTHER"
                )


def _merged(point: Point, seed: int) -> Path:
    """Return the point's merged adapter of a seed, made again if its parents have changed."""
    assert point.weights is not None
    parents = _folders(point, seed)
    folder = point.recipe.output / "merged" / path_part(f"{point.weights}-seed{seed}")
    with locked(folder):
        manifest = adapter.read_manifest(folder)
        known = [parent.digest for parent in manifest.parents or ()] if manifest else []
        if known != [adapter.digest(parent) for parent in parents]:
            shutil.rmtree(folder, ignore_errors=True)
            merge_adapters(parents, point.weights, folder)
    return folder


def results(points: Sequence[Point], folder: Path) -> list[Result]:
    """Return every point's scores with its baseline's, from the records in `folder`. Raises RecordError."""
    wanted = {
        (*scored, seed)
        for point in points
        for scored in (point.scored, (point.against.name, BASELINE))
        for seed in point.recipe.seeds
    }
    by_group: dict[str, dict[tuple[str, str, int | None], Run]] = {}
    for run in load_runs(folder):
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
) -> Iterator[Result]:
    """Yield the results of the points with this group's task, which identifies their baselines."""
    first, *others = runs.values()
    for other in others:
        if other.ids != first.ids:
            raise RecordError(
                f"{first.file} and {other.file} have other items of {group}, which cannot be compared. "
                f"Remove the older of the two, and give the same sweep once more"
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
        own = BoardSection(group, tuple(point.recipe.supervised), tuple(point.recipe.aligned), section.rows)
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
        change, mean = mean_scores(changes), mean_scores([own for own, _ in pairs])
        yield Result(
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


def write(found: Sequence[Result], folder: Path) -> list[Path]:
    """Write `results.csv` and a plot per group of tasks."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["group", "point", "role", "seeds", "score", "change", "low", "high", "by_seed"])
    for one in found:
        for role, change in one.change.items():
            figures = [one.scores[role], change.value, change.low, change.high]
            seeds = " ".join(map(_cell, one.by_seed[role]))
            writer.writerow([one.group, one.label, role, len(one.seeds), *map(_cell, figures), seeds])
    paths = {folder / "results.csv": table.getvalue().encode()}
    for group in dict.fromkeys(one.group for one in found):
        paths[folder / f"{group}.png"] = _plot([one for one in found if one.group == group])
    for path, content in paths.items():
        write_atomically(path, content)
    return list(paths)


def _cell(figure: float) -> str:
    """Return a figure with four decimals, a dash for NaN."""
    return "–" if math.isnan(figure) else f"{figure:.4f}"


def _plot(found: Sequence[Result]) -> bytes:
    """Plot a row per point: changes by role, with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from midalign.leaderboard.plots import COLOURS, GREY, SHAPES

    with plt.style.context("default"), plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(found) + 1.6), layout="constrained")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for number, role in enumerate(roles(found)):
            changes = [(place, one.change[role]) for place, one in enumerate(found) if role in one.change]
            estimates = [(100 * one.value, 100 * one.low, 100 * one.high) for _, one in changes]
            axes.errorbar(
                [value for value, _, _ in estimates],
                [place + 0.2 * (number - 1) for place, _ in changes],
                xerr=[[v - low for v, low, _ in estimates], [high - v for v, _, high in estimates]],
                fmt=SHAPES[number],
                color=COLOURS[number],
                markersize=5,
                capsize=2,
                label=role,
            )
        axes.set_yticks(range(len(found)), [_in_lines(one.label) for one in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlabel("minus baseline, points; 95% paired interval over items")
        axes.set_title(f"{found[0].group}, {said(found[0].seeds)}", fontsize=10)
        figure.legend(loc="outside lower center", frameon=False, ncols=3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        plt.close(figure)
    return buffer.getvalue()


def roles(found: Sequence[Result]) -> list[str]:
    """Return the roles that any point has. A point that aligns all other languages has no unseen one."""
    return [role for role in ROLES if any(role in one.change for one in found)]


def _in_lines(label: str) -> str:
    """Break a label where languages are joined, since 19 of them are wider than the plot."""
    parts = label.replace("+", "+ ").replace(",", ", ").split()
    return textwrap.fill(" ".join(parts), WIDTH, break_long_words=False).replace("+ ", "+")


def said(seeds: Sequence[int]) -> str:
    """Name the seeds, such as "seed 1"."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
