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
    from rich import box
    from rich.table import Table

    from midalign.cli.table_printing import print_table
    from midalign.escaping import command_line, plain_text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("model", "tasks", "missing"):
        table.add_column(name, overflow="fold")
    for cell in cells:
        share = f"{len(cell.tasks)} of {len(cell.every)}"
        table.add_row(plain_text(cell.model.name), plain_text(cell.column.title), share)
    print_table(console, table)
    console.print("Commands, with the folder of the adapter in place of its name:\n")
    for cell in cells:
        console.print(command_line(cell.command), soft_wrap=True)


def _print_outdated(console: "Console", outdated: "Sequence[OutdatedRecord]") -> None:
    """Print a row per record of an earlier task version, then the commands."""
    from rich import box
    from rich.table import Table

    from midalign.cli.table_printing import print_table
    from midalign.escaping import command_line, plain_text
    from midalign.leaderboard.missing import rescoring_commands

    table = Table(title="Records of an earlier task version", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("record", "group", "tasks", "task version"):
        table.add_column(name, overflow="fold")
    for entry in outdated:
        version = f"{entry.versions}, an earlier bundled base" if entry.base_replaced else entry.versions
        table.add_row(plain_text(entry.file), plain_text(entry.column.title), str(len(entry.tasks)), version)
    print_table(console, table)
    commands = rescoring_commands(outdated)
    if commands:
        console.print(
            "Commands that score them again, with the folders of the adapters in place of their names:\n",
            soft_wrap=True,
        )
    for command in commands:
        console.print(command_line(command), soft_wrap=True)
