"""`midalign compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from midalign.leaderboard.paired_comparison import PairedComparison

EXAMPLES = """\
midalign compare aligned baseline --results results --by role
midalign compare results/a.json results/b.json --format latex
midalign compare aligned baseline --metric bleu --sacrebleu
"""


def compare(
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="A record, a folder of records of one arm, or an arm of --results."),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The record, folder or arm to compare A with.")],
    by: Annotated[
        Literal["language", "role", "class"],
        typer.Option(help="Rows: language, role or class (of resources).", metavar="NAME"),
    ] = "language",
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Metric. Groups of tasks without it are skipped. Default: the task's headline.",
        ),
    ] = None,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Records, for names of arms.")] = Path(
        "leaderboard/results"
    ),
    format_: Annotated[
        Literal["table", "markdown", "latex", "json"],
        typer.Option("--format", metavar="NAME", help="table, markdown, latex (booktabs) or json."),
    ] = "table",
    sacrebleu: Annotated[
        bool,
        typer.Option("--sacrebleu", help="Add the p-values of sacreBLEU's own paired tests (translation)."),
    ] = False,
) -> None:
    """Compare two arms: differences with intervals and tests.

    Documents and seeds are resampled in pairs. p-values are adjusted for the number of rows (Holm).
    """
    from midalign.leaderboard import comparison_tables
    from midalign.leaderboard.build import compare_arms

    comparisons = compare_arms(first, second, by=by, metric=metric, results=results, sacrebleu=sacrebleu)
    if format_ == "json":
        print(comparison_tables.comparison_json(comparisons), end="")
    elif format_ == "table":
        for comparison in comparisons:
            _print(comparison)
    elif format_ == "markdown":
        print("\n".join(map(comparison_tables.comparison_markdown, comparisons)), end="")
    else:
        print("\n".join(map(comparison_tables.comparison_latex, comparisons)), end="")


def _print(comparison: "PairedComparison") -> None:
    """Print the table, the verdict and the notes."""
    from midalign.cli.table_printing import print_table, table_console
    from midalign.escaping import plain_text
    from midalign.leaderboard.comparison_tables import (
        LONGEST_CAPTION,
        comparison_notes,
        describe_comparison,
    )

    console = table_console()
    print_table(console, _table(comparison))
    for line in describe_comparison(comparison):
        console.print(plain_text(line, LONGEST_CAPTION))
    console.print(comparison_notes(comparison), style="dim")
    console.print()


def _table(comparison: "PairedComparison") -> "Table":
    from rich import box
    from rich.table import Table

    from midalign.escaping import plain_text
    from midalign.leaderboard.comparison_tables import (
        comparison_cells,
        comparison_header,
        comparison_title,
    )

    view = Table(
        title=plain_text(comparison_title(comparison)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    header, *others = comparison_header(comparison)
    view.add_column(header, overflow="fold")
    for name in others:
        view.add_column(name, justify="right")
    for cells in comparison_cells(comparison):
        view.add_row(*cells)
    return view
