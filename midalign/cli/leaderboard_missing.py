"""`midalign leaderboard missing`."""

from pathlib import Path
from typing import Annotated

import typer

from midalign.cli.comma_lists import split_commas
from midalign.cli.help import add_command
from midalign.cli.leaderboard import app

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
    """List models and tasks without a record, and the commands that fill them."""
    from rich import box
    from rich.table import Table

    from midalign.cli.table_printing import print_table, table_console
    from midalign.escaping import plain_text
    from midalign.leaderboard.load import load_runs
    from midalign.leaderboard.missing import find_missing

    columns, cells = find_missing(load_runs(results), split_commas(tasks or ()))
    console = table_console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("model", "tasks", "missing"):
        table.add_column(name, overflow="fold")
    for cell in cells:
        share = f"{len(cell.tasks)} of {len(cell.every)}"
        table.add_row(plain_text(cell.model.name), plain_text(cell.column.title), share)
    if not cells:
        console.print(f"Nothing is missing: every model has all tasks of its base ({len(columns)} groups).")
        return
    print_table(console, table)
    console.print("Commands, with the folder of the adapter in place of its name:\n")
    for cell in cells:
        console.print(plain_text(cell.command, longest=10_000), soft_wrap=True)
