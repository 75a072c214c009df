"""The points of a sweep: variants of an experiment, each with its baseline."""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midalign import record
from midalign.errors import RecipeError
from midalign.merge.weights import MergeWeights
from midalign.sweep.grid import Grid
from midalign.train.recipe import Recipe, load_recipe

BASELINE = "baseline"
ALIGNED = "aligned"
"""Arm with the alignment of the recipe."""
ALONE = "alone"
"""Arm of alignment alone, which is scored after merging it into the baseline."""
FILES = (".tsv", ".jsonl", ".yaml")
"""File extensions that labels omit."""


@dataclass(frozen=True)
class Point:
    """A variant of the experiment: an arm of a recipe, and the recipe of its baseline."""

    label: str
    recipe: Recipe
    arm: str
    against: Recipe
    weights: MergeWeights | None = None
    """Weights of baseline and arm in a merged point."""

    @property
    def scored(self) -> tuple[str, str]:
        """Recipe and arm in the records of the point."""
        return (self.against.name, f"merged {self.weights}") if self.weights else (self.recipe.name, self.arm)


def plan_points(grid: Grid, overrides: Sequence[str] = ()) -> list[Point]:
    """Return the points of a sweep in order. Raises RecipeError for invalid recipes."""
    # 1. The changes of the points, without repetitions.
    changes = _distinct([_dotted(change) for change in [*_combinations(grid.grid), *grid.points]])
    if not changes and not grid.merged:
        raise RecipeError(
            f"sweep {grid.name} has no points. Add a grid, such as grid: {{align.layer: [2, 4]}}"
        )
    _check_keys(grid, {key for change in changes for key in change}, overrides)
    # 2. Group them by recipe: keys of `align` make an arm, the others a recipe.
    by_recipe: dict[str, dict[str, dict[str, Any]]] = {}
    outside: dict[str, dict[str, Any]] = {}
    named: dict[str, dict[str, Any]] = {}
    for change in changes:
        of_recipe = {key: value for key, value in change.items() if not key.startswith("align.")}
        name = "-".join([grid.name, *([_label(of_recipe)] if of_recipe else [])])
        arm = {key.removeprefix("align."): v for key, v in change.items() if key not in of_recipe}
        _claim_name(grid, named, name, of_recipe)
        _claim_name(grid, named, f"{name}-{_label(arm) or ALIGNED}", change)
        outside[name] = of_recipe
        by_recipe.setdefault(name, {})[_label(arm) or ALIGNED] = arm
    if grid.merged:
        outside[grid.name] = {}
        by_recipe.setdefault(grid.name, {})[ALONE] = {"task": False}
    # 3. Load the recipes. The first one of a task side trains the baseline of all of them.
    points: list[Point] = []
    baselines: dict[str, Recipe] = {}
    for name, arms in by_recipe.items():
        recipe = _load_point_recipe(
            grid, {**outside[name], "arms": {BASELINE: None, **arms}}, name, overrides
        )
        against = baselines.setdefault(_task_side(recipe), recipe)
        if against is not recipe:
            recipe = recipe.model_copy(update={"arms": arms})
        for arm_name in (arm_name for arm_name in arms if arm_name != ALONE):
            parts = [_label(outside[name]), arm_name if arm_name != ALIGNED else ""]
            label = ", ".join(part for part in parts if part) or arm_name
            points.append(Point(label, recipe, arm_name, against))
        if ALONE in arms:
            mixes = ((f"merged={weight:g}", MergeWeights((1.0, weight))) for weight in grid.merged)
            points += [Point(label, recipe, ALONE, against, weights) for label, weights in mixes]
    _reject_equal_points(grid, points)
    return points


def _combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if not grid:
        return []
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _distinct(changes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the changes without repetitions. The order of their keys does not count."""
    return list({json.dumps(change, sort_keys=True, default=str): change for change in changes}.values())


def _claim_name(grid: Grid, named: dict[str, dict[str, Any]], name: str, change: dict[str, Any]) -> None:
    """Give a change its file name. Raises RecipeError if another change has the same.

    Names are compared without case, as in some file systems.
    """
    file = record.record_file_name(name)
    known = named.setdefault(file.casefold(), change)
    if known != change:
        raise RecipeError(
            f"sweep {grid.name}: {known} and {change} would both be called {file}. Rename their "
            f"values so that they differ in letters, digits, or the last folder and file of a path"
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
                f"Remove one of them: a value may be the recipe's default, or written in two ways"
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
    """Raise RecipeError for keys that a sweep sets itself, or that must be equal in all points."""
    given = {override.partition("=")[0] for override in overrides}
    for key in sorted({*swept, *grid.changes, *given}):
        if key.partition(".")[0] in ("name", "arms"):
            raise RecipeError(
                f"sweep {grid.name}: {key} cannot be set, since a sweep names its recipes and arms itself. "
                f"An arm is a point that changes align, such as {{align.layer: 2}}"
            )
    for key in sorted(swept):
        if key.partition(".")[0] in ("output", "evaluate", "evaluation"):
            raise RecipeError(
                f"sweep {grid.name}: {key} cannot differ between points, which are compared on the same "
                f"items in one folder. Set it for all points: under changes, or {key}=VALUE after the sweep"
            )
        overridden = sorted(
            override
            for override in given
            if f"{key}.".startswith(f"{override}.") or override.startswith(f"{key}.")
        )
        if overridden:
            raise RecipeError(
                f"sweep {grid.name}: {overridden[0]}=... overrides {key}, in which the points differ. "
                f"Remove it, or change the points in a file of your own"
            )


def _label(change: Mapping[str, Any]) -> str:
    """Return a label such as `layer=2,weight=0.3`, which is also a part of file names."""
    return ",".join(f"{key.rpartition('.')[2]}={_word(value)}" for key, value in change.items())


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_word, value))
    if not (isinstance(value, str) and "/" in value):
        return str(value)
    path = Path(value)
    return f"{path.parent.name}_{path.stem if path.suffix in FILES else path.name}".lstrip("_")


def _load_point_recipe(grid: Grid, change: Mapping[str, Any], name: str, overrides: Sequence[str]) -> Recipe:
    """Load the recipe of a point. By default it is scored on the validation split, without the base."""
    defaults = {"evaluation.split": "validation", "evaluation.base": False}
    values = {**defaults, **grid.changes, **change, "name": name}
    # YAML reads JSON's surrogate pairs as two characters, so nothing is escaped.
    given = [f"{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value in values.items()]
    output = f"output=sweeps/{grid.name}"
    loaded = load_recipe(grid.recipe, [output, *given, *overrides])
    if not loaded.evaluate:
        raise RecipeError(
            f"sweep {grid.name}: evaluate: false leaves nothing to compare. Train with midalign-train instead"
        )
    if loaded.lora is None:
        raise RecipeError(
            f"sweep {grid.name}: lora: null trains whole models, and a sweep scores adapters of one base "
            f"together. Train them with midalign-train and score each with midalign eval --base FOLDER"
        )
    return loaded.model_copy(update={"output": loaded.output / name})


def _task_side(recipe: Recipe) -> str:
    """Return the settings that a baseline depends on, as JSON.

    Alignment and aligned languages do not count, except with early stopping, whose measure may use their
    samples or held-out pairs.
    """
    ignored = {"name", "arms", "output"}
    if recipe.monitor is None or recipe.monitor.stop_on is None:
        ignored |= {"aligned", "align"}
    return json.dumps(recipe.model_dump(mode="json", exclude=ignored), sort_keys=True)


def recipes_of_points(points: Sequence[Point]) -> list[Recipe]:
    """Return each recipe once, in order."""
    return list({point.recipe.name: point.recipe for point in points}.values())
