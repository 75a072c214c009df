"""`midalign sweep`"""

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from midalign.sweep import Result
    from midalign.train.recipe import Recipe


def sweep(
    grid: Annotated[str, typer.Argument(help="A sweep of the package (layer, pairs, ...) or a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to all recipes, such as seeds=[1,2]."),
    ] = None,
) -> None:
    """Train and score many forms of a recipe on dev, and show them side by side. A killed sweep goes on."""
    from midalign.cli import train as training

    training.settle_environment()
    from rich.console import Console

    from midalign import sweep as sweeping
    from midalign.train import run
    from midalign.train.stream import check_roles

    points = sweeping.plan(sweeping.read(grid), overrides or [])
    recipes = sweeping.recipes_of(points)
    folder = recipes[0].output.parent
    console = Console(stderr=True)
    console.print(
        f"{len(points)} points, {sum(1 for r in recipes for _ in run.runs(r))} adapters to {folder}"
    )
    for recipe in recipes:
        check_roles(recipe)  # before the first of them has trained for hours
    for _, alike in groupby(recipes, key=_scored_alike):
        adapters = []
        for recipe in alike:
            with training.training_bars(console) as report:
                run.train(recipe, report)
            adapters += sweeping.adapters(recipe, points)
        training.evaluate(recipe.model_copy(update={"output": folder}), adapters)
    found = sweeping.results(points, folder / "results")
    screen = Console(highlight=False)
    for group in dict.fromkeys(one.group for one in found):
        screen.print(_table(group, [one for one in found if one.group == group]))
    for path in sweeping.write(found, folder):
        print(path)


def _scored_alike(recipe: "Recipe") -> tuple[object, ...]:
    """What one evaluation has for all its adapters."""
    return recipe.base, recipe.task, recipe.chat_template, recipe.system_instruction, recipe.evaluation


def _table(group: str, found: "list[Result]") -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE, title=f"{group}, minus baseline in points, 95% intervals", title_justify="left"
    )
    table.add_column("point")
    table.add_column("seeds", justify="right")
    for role in found[0].change:
        table.add_column(role, justify="right")
    for one in found:
        cells = [
            f"{100 * c.value:+.1f} [{100 * c.low:+.1f}, {100 * c.high:+.1f}]" for c in one.change.values()
        ]
        table.add_row(one.label, str(len(one.seeds)), *cells)
    return table
