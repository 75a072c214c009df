"""The points of a sweep, each an arm of a recipe beside its baseline."""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midalign import record
from midalign.errors import RecipeError
from midalign.merge import Weights
from midalign.sweep.grid import Grid
from midalign.train.recipe import Recipe, load_recipe

BASELINE = "baseline"
ALIGNED = "aligned"
"""The arm that changes nothing of the recipe's alignment."""
ALONE = "alone"
"""The arm of alignment alone, which is scored as merged into the baseline."""
FILES = (".tsv", ".jsonl", ".yaml")
"""Endings that a point's label leaves out."""


@dataclass(frozen=True)
class Point:
    """One form of the experiment: an arm of a recipe, and the baseline that it is held against."""

    label: str
    recipe: Recipe
    arm: str
    against: Recipe
    weights: Weights | None = None
    """Of the baseline and the arm, where the point is both merged."""

    @property
    def scored(self) -> tuple[str, str]:
        """Recipe and arm that its records name."""
        return (self.against.name, f"merged {self.weights}") if self.weights else (self.recipe.name, self.arm)


def plan_points(grid: Grid, overrides: Sequence[str] = ()) -> list[Point]:
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
            mixes = ((f"merged={weight:g}", Weights((1.0, weight))) for weight in grid.merged)
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
    file = record.file_name(name)
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
    loaded = load_recipe(grid.recipe, [output, *given, *overrides])
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


def recipes_of_points(points: Sequence[Point]) -> list[Recipe]:
    """Return each recipe once, in order."""
    return list({point.recipe.name: point.recipe for point in points}.values())
