"""`midalign compare`."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from midalign.leaderboard.paired_comparison import PairedComparison

EXAMPLES = """\
midalign compare aligned baseline --results results --by role
midalign compare results/a.json results/b.json --format latex
midalign compare aligned baseline --metric bleu --sacrebleu
"""


class By(Enum):
    """Rows of the table."""

    LANGUAGE = "language"
    ROLE = "role"
    CLASS = "class"


class Format(Enum):
    """Form of the output."""

    TABLE = "table"
    MARKDOWN = "markdown"
    LATEX = "latex"
    JSON = "json"


def compare(
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="A record, a folder of records of one arm, or an arm of --results."),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="What A is compared with.")],
    by: Annotated[
        By, typer.Option(help="Rows: language, role or class (of resources).", metavar="NAME")
    ] = By.LANGUAGE,
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="Metric of the records. Default: the task's headline.")
    ] = None,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Records, for names of arms.")] = Path(
        "leaderboard/results"
    ),
    form: Annotated[
        Format, typer.Option("--format", metavar="NAME", help="table, markdown, latex (booktabs) or json.")
    ] = Format.TABLE,
    sacrebleu: Annotated[
        bool,
        typer.Option("--sacrebleu", help="Add the p-values of sacreBLEU's own paired tests (translation)."),
    ] = False,
) -> None:
    """Compare two arms: differences with intervals and tests.

    Documents and seeds are resampled in pairs. p-values are adjusted for the number of rows (Holm).
    """
    from midalign.leaderboard import comparison_tables
    from midalign.leaderboard.build import compare_records

    comparisons = compare_records(
        first, second, by=by.value, metric=metric, results=results, sacrebleu=sacrebleu
    )
    if form is Format.JSON:
        print(comparison_tables.comparison_json(comparisons), end="")
    elif form is Format.TABLE:
        for comparison in comparisons:
            _print(comparison)
    else:
        render = {
            Format.MARKDOWN: comparison_tables.comparison_markdown,
            Format.LATEX: comparison_tables.comparison_latex,
        }[form]
        print("\n".join(map(render, comparisons)), end="")


def _print(comparison: "PairedComparison") -> None:
    """Print the verdict below the table."""
    from rich.console import Console

    from midalign.cli.leaderboard import WIDTH
    from midalign.cli.table_printing import print_table
    from midalign.leaderboard.comparison_tables import comparison_notes, describe_comparison

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    print_table(console, _table(comparison))
    for line in describe_comparison(comparison):
        console.print(line)
    console.print(comparison_notes(comparison), style="dim")
    console.print()


def _table(comparison: "PairedComparison") -> "Table":
    from rich import box
    from rich.table import Table

    from midalign.leaderboard.comparison_tables import (
        comparison_cells,
        comparison_header,
        comparison_title,
    )

    view = Table(
        title=comparison_title(comparison), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    header, *others = comparison_header(comparison)
    view.add_column(header, overflow="fold")
    for name in others:
        view.add_column(name, justify="right")
    for cells in comparison_cells(comparison):
        view.add_row(*cells)
    return view
