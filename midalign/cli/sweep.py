"""`midalign sweep`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from midalign.cluster.client import ReportStanding
    from midalign.cluster.driver import SweepStanding
    from midalign.leaderboard.statistics import Estimate
    from midalign.sweep import Point, Result
    from midalign.train.recipe import Recipe


EXAMPLES = """\
midalign sweeps list
midalign sweep layer 'seeds=[1,2]'
midalign sweep mine.yaml --ray auto
"""


def sweep(
    grid: Annotated[
        str, typer.Argument(metavar="SWEEP", help="YAML file, or a name of `midalign sweeps list`.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to all recipes, such as 'seeds=[1,2]'."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: HOST:PORT, ray://HOST:PORT or auto."),
    ] = None,
) -> None:
    """Train a grid of recipes and compare their validation scores.

    Interrupted sweeps resume where they stopped. Extending a grid does not retrain existing points.
    """
    from midalign.cli import train as training

    training.settle_environment()
    from rich.console import Console

    from midalign import sweep as sweeping
    from midalign.cli.table_printing import print_table
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
    groups = [list(alike) for _, alike in groupby(recipes, key=_scored_alike)]
    if ray is None:
        for alike in groups:
            _run_here(alike, points, folder, console)
    else:
        from midalign.cluster.client import sweep_on_cluster

        with _tasks_bar(console) as report:
            sweep_on_cluster(ray, groups, points, folder, report)
    found = sweeping.results(points, folder / "results")
    screen = Console(highlight=False, markup=False)
    for group in dict.fromkeys(one.group for one in found):
        print_table(screen, _table(group, [one for one in found if one.group == group]))
    for path in sweeping.write(found, folder):
        print(path)


def _run_here(alike: "Sequence[Recipe]", points: "Sequence[Point]", folder: Path, console: "Console") -> None:
    """Train, merge and score recipes whose adapters share one evaluation."""
    from midalign import sweep as sweeping
    from midalign.cli import train as training
    from midalign.train import run

    adapters = []
    for recipe in alike:
        with training.training_bars(console) as report:
            run.train(recipe, report)
        adapters += sweeping.adapters(recipe, points)
    training.evaluate(alike[0].model_copy(update={"output": folder}), adapters)


@contextmanager
def _tasks_bar(console: "Console") -> "Iterator[ReportStanding]":
    """Show a bar over the tasks of a cluster, and a line per finished task."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task("connecting", total=None)

        def report(now: "SweepStanding") -> None:
            counts = f"{now.done} of {now.total} done, {now.running} running, {now.failed} failed"
            bars.update(bar, completed=now.done, total=now.total or None, description=counts)
            for line in now.news:
                said = line if console.is_terminal else f"{line}  ({counts})"
                console.print(said, soft_wrap=True, highlight=False, markup=False)

        yield report


def _scored_alike(recipe: "Recipe") -> tuple[object, ...]:
    """Return the settings that recipes of one evaluation share."""
    return recipe.base, recipe.task, recipe.chat_template, recipe.system_instruction, recipe.evaluation


def _table(group: str, found: "list[Result]") -> "Table":
    from rich import box
    from rich.table import Table

    from midalign.sweep import roles, said

    seeds = said(found[0].seeds)
    title = f"{group}, {seeds}, minus baseline in points, 95% intervals"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("point")
    shown = roles(found)
    for role in shown:
        table.add_column(role, justify="right")
    for one in found:
        cells = [_cell(one.change[role]) if role in one.change else "" for role in shown]
        table.add_row(one.label, *cells)
    return table


def _cell(change: "Estimate") -> str:
    return f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
