"""Table and plots of a sweep."""

import csv
import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

from midalign.files import write_atomically
from midalign.languages import ROLES
from midalign.sweep.point_results import PointResult

LOSSES = "where_slots_are_lost.csv"
"""File name of the table of losses."""

WIDTH = 36
"""Characters per line of a point's label in the plot."""


def write_results(results: Sequence[PointResult], folder: Path) -> list[Path]:
    """Write `results.csv`, a plot per group of tasks, and LOSSES if the tasks have such metrics."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["group", "point", "role", "seeds", "score", "change", "low", "high", "by_seed"])
    for result in results:
        for role, change in result.change.items():
            figures = [result.scores[role], change.value, change.low, change.high]
            seeds = " ".join(map(_cell, result.by_seed[role]))
            writer.writerow(
                [result.group, result.label, role, len(result.seeds), *map(_cell, figures), seeds]
            )
    paths = {folder / "results.csv": table.getvalue().encode()}
    if any(result.losses for result in results):
        paths[folder / LOSSES] = _losses_table(results).encode()
    for group in dict.fromkeys(result.group for result in results):
        paths[folder / f"{group}.png"] = _plot([result for result in results if result.group == group])
    for path, content in paths.items():
        write_atomically(path, content)
    return list(paths)


def _losses_table(results: Sequence[PointResult]) -> str:
    """Return the CSV of where points are lost: a line per point, measure and role."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["group", "point", "measure", "role", "seeds", "score", "change", "low", "high"])
    for result in results:
        for metric, by_role in result.losses.items():
            for role, (score, change) in by_role.items():
                figures = map(_cell, [score, change.value, change.low, change.high])
                writer.writerow([result.group, result.label, metric, role, len(result.seeds), *figures])
    return table.getvalue()


def _cell(figure: float) -> str:
    """Return a figure with four decimals, a dash for NaN."""
    return "–" if math.isnan(figure) else f"{figure:.4f}"


def _plot(results: Sequence[PointResult]) -> bytes:
    """Plot a row per point: changes by role, with their intervals."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from midalign.leaderboard.plots import COLOURS, GREY, SHAPES, plot_style

    with plot_style():
        figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(results) + 1.6), layout="constrained")
        axes.axvline(0, color=GREY, linewidth=0.8)
        for number, role in enumerate(shown_roles(results)):
            changes = [
                (place, result.change[role]) for place, result in enumerate(results) if role in result.change
            ]
            estimates = [(100 * change.value, 100 * change.low, 100 * change.high) for _, change in changes]
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
        axes.set_yticks(range(len(results)), [_in_lines(result.label) for result in results])
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.set_xlabel("minus baseline, points; 95% paired interval")
        axes.set_title(f"{results[0].group}, {name_seeds(results[0].seeds)}", fontsize=10)
        figure.legend(loc="outside lower center", frameon=False, ncols=3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        plt.close(figure)
    return buffer.getvalue()


def shown_roles(results: Sequence[PointResult]) -> list[str]:
    """Return the roles that occur in any point. Without further languages none is unseen."""
    return [role for role in ROLES if any(role in result.change for result in results)]


def _in_lines(label: str) -> str:
    """Wrap a label between languages, since 19 languages are wider than the plot."""
    parts = label.replace("+", "+ ").replace(",", ", ").split()
    return textwrap.fill(" ".join(parts), WIDTH, break_long_words=False).replace("+ ", "+")


def name_seeds(seeds: Sequence[int]) -> str:
    """Name the seeds, such as "seed 1"."""
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
