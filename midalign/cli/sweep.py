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
    from midalign.sweep.point_results import PointResult
    from midalign.sweep.points import Point
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

    from midalign.cli.table_printing import print_table
    from midalign.sweep.grid import read_grid
    from midalign.sweep.point_results import read_results
    from midalign.sweep.points import plan_points, recipes_of_points
    from midalign.sweep.result_files import write_results
    from midalign.train.recipe_checks import check_roles
    from midalign.train.run import training_runs

    points = plan_points(read_grid(grid), overrides or [])
    recipes = recipes_of_points(points)
    folder = recipes[0].output.parent
    console = Console(stderr=True, markup=False)
    console.print(
        f"{len(points)} points, {sum(1 for r in recipes for _ in training_runs(r))} adapters to {folder}"
    )
    for recipe in recipes:
        check_roles(recipe)  # before any of them trains for hours
    groups = [list(alike) for _, alike in groupby(recipes, key=_scored_alike)]
    if ray is None:
        for alike in groups:
            _run_here(alike, points, folder, console)
    else:
        from midalign.cluster.client import sweep_on_cluster

        with _tasks_bar(console) as report:
            sweep_on_cluster(ray, groups, points, folder, report)
    results = read_results(points, folder / "results")
    screen = Console(highlight=False, markup=False)
    for group in dict.fromkeys(result.group for result in results):
        of_group = [result for result in results if result.group == group]
        print_table(screen, _table(group, of_group))
        if any(result.losses for result in of_group):
            print_table(screen, _losses_table(of_group))
    for path in write_results(results, folder):
        print(path)


def _run_here(alike: "Sequence[Recipe]", points: "Sequence[Point]", folder: Path, console: "Console") -> None:
    """Train, merge and score recipes whose adapters share one evaluation."""
    from midalign.cli import train as training
    from midalign.sweep.point_adapters import adapters_to_score
    from midalign.train.run import train_recipe

    adapters = []
    for recipe in alike:
        with training.training_bars(console) as report:
            train_recipe(recipe, report)
        adapters += adapters_to_score(recipe, points)
    training.evaluate_adapters(alike[0].model_copy(update={"output": folder}), adapters)


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
                text = line if console.is_terminal else f"{line}  ({counts})"
                console.print(text, soft_wrap=True, highlight=False, markup=False)

        yield report


def _scored_alike(recipe: "Recipe") -> tuple[object, ...]:
    """Return the settings that recipes must share to be scored in one evaluation."""
    return recipe.base, recipe.task, recipe.chat_template, recipe.system_instruction, recipe.evaluation


def _table(group: str, results: "list[PointResult]") -> "Table":
    from rich import box
    from rich.table import Table

    from midalign.sweep.result_files import name_seeds, shown_roles

    seeds = name_seeds(results[0].seeds)
    title = f"{group}, {seeds}, minus baseline in points, 95% intervals"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("point")
    roles = shown_roles(results)
    for role in roles:
        table.add_column(role, justify="right")
    for result in results:
        cells = [_cell(result.change[role]) if role in result.change else "" for role in roles]
        table.add_row(result.label, *cells)
    return table


def _losses_table(results: "list[PointResult]") -> "Table":
    from rich import box
    from rich.table import Table

    from midalign.leaderboard.loss_tables import LOSS_TITLE
    from midalign.sweep.result_files import shown_roles

    title = f"{LOSS_TITLE}, minus baseline in points, 95% intervals"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("measure")
    table.add_column("point")
    roles = shown_roles(results)
    for role in roles:
        table.add_column(role, justify="right")
    for metric in dict.fromkeys(metric for result in results for metric in result.losses):
        for result in results:
            by_role = result.losses.get(metric, {})
            cells = [_cell(by_role[role][1]) if role in by_role else "" for role in roles]
            table.add_row(metric.replace("_", " "), result.label, *cells)
    return table


def _cell(change: "Estimate") -> str:
    return f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
