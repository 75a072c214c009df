"""`midalign leaderboard missing`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign.cli.comma_lists import split_commas
from midalign.cli.help import add_command
from midalign.cli.leaderboard import app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from midalign.leaderboard.missing import MissingCell, OutdatedRecord

EXAMPLES = """\
midalign leaderboard missing --results results
midalign leaderboard missing --results results --tasks midalign_slot
"""


@add_command(app, examples=EXAMPLES)
def missing(
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Records (*.json).")] = Path(
        "leaderboard/results"
    ),
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUPS", help="Only these groups, comma-separated. Repeatable."),
    ] = None,
) -> None:
    """List missing and outdated records, and the commands that create them."""
    from midalign.cli.table_printing import table_console
    from midalign.leaderboard.load import load_runs
    from midalign.leaderboard.missing import find_missing, find_outdated

    runs, groups = load_runs(results), split_commas(tasks or ())
    columns, cells = find_missing(runs, groups)
    outdated = find_outdated(runs, groups)
    console = table_console()
    if cells:
        _print_missing(console, cells)
    else:
        console.print(f"Nothing is missing: every model has all tasks of its base ({len(columns)} groups).")
    if outdated:
        console.print()
        _print_outdated(console, outdated)


def _print_missing(console: "Console", cells: "Sequence[MissingCell]") -> None:
    """Print a row per cell without a record, then the commands."""
    rows = [(cell.model.name, cell.column.title, f"{len(cell.tasks)} of {len(cell.every)}") for cell in cells]
    _print_rows(console, None, ("model", "tasks", "missing"), rows)
    _print_commands(
        console,
        "Commands, with the folder of the adapter in place of its name:",
        [cell.command for cell in cells],
    )


def _print_outdated(console: "Console", outdated: "Sequence[OutdatedRecord]") -> None:
    """Print a row per record of an earlier task version, then the commands."""
    from midalign.leaderboard.missing import rescoring_commands

    rows = []
    for entry in outdated:
        version = f"{entry.versions}, an earlier bundled base" if entry.base_replaced else entry.versions
        rows.append((entry.file, entry.column.title, str(len(entry.tasks)), version))
    header = ("record", "group", "tasks", "task version")
    _print_rows(console, "Records of an earlier task version", header, rows)
    _print_commands(
        console,
        "Commands that score them again, with the folders of the adapters in place of their names:",
        rescoring_commands(outdated),
    )


def _print_rows(
    console: "Console", title: str | None, header: "Sequence[str]", rows: "Sequence[Sequence[str]]"
) -> None:
    from rich import box
    from rich.table import Table

    from midalign.cli.table_printing import print_table
    from midalign.escaping import plain_text

    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(plain_text, row))
    print_table(console, table)


def _print_commands(console: "Console", heading: str, commands: "Sequence[str]") -> None:
    from midalign.escaping import command_line

    if commands:
        console.print(f"{heading}\n", soft_wrap=True)
    for command in commands:
        console.print(command_line(command), soft_wrap=True)
