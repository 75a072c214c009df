"""`midalign leaderboard check`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign.cli.help import add_command
from midalign.cli.leaderboard import app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from midalign.leaderboard.check import RecordCheck

EXAMPLES = """\
midalign leaderboard check results
midalign leaderboard check results/a.json results/b.json --no-prompts
"""


@add_command(app, examples=EXAMPLES)
def check(
    records: Annotated[list[Path], typer.Argument(metavar="RECORD", help="Records (*.json) or folders.")],
    prompts: Annotated[
        bool,
        typer.Option(
            "--prompts/--no-prompts",
            help="Render the prompts of tasks whose data are here, and compare their digests.",
        ),
    ] = True,
) -> None:
    """Check records before they go on a board. Exit status 1 if one fails."""
    from midalign.cli.table_printing import print_table, table_console
    from midalign.leaderboard.check import check_records, record_files

    checks = check_records(record_files(records), prompts)
    console = table_console()
    print_table(console, check_table(checks))
    for line in finding_lines(checks):
        console.print(line, soft_wrap=True)
    failed = sum(entry.failed for entry in checks)
    console.print(f"{len(checks)} records: {len(checks) - failed} pass, {failed} fail")
    if failed:
        raise typer.Exit(1)


def check_table(checks: "Sequence[RecordCheck]") -> "Table":
    """Return a row per record with its result, and the subjects that fail or have notes."""
    from rich import box
    from rich.table import Table

    from midalign.escaping import plain_text
    from midalign.leaderboard.check import SUBJECTS

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("record", overflow="fold")
    table.add_column("result", no_wrap=True)
    table.add_column("fails")
    table.add_column("notes")
    for entry in checks:
        by_state = [
            ", ".join(subject for subject in SUBJECTS if entry.state(subject) == state)
            for state in ("fail", "note")
        ]
        table.add_row(plain_text(entry.file.stem), "FAIL" if entry.failed else "pass", *by_state)
    return table


def finding_lines(checks: "Sequence[RecordCheck]") -> list[str]:
    """Return failures, then notes, each text once with the records that it is about."""
    from midalign.escaping import plain_text
    from midalign.leaderboard.check import group_findings

    lines = []
    for finding, files in group_findings(checks).items():
        others = f" and {len(files) - 1} more records" if len(files) > 1 else ""
        state = "FAIL" if finding.state == "fail" else finding.state
        text = plain_text(finding.text, longest=1000)
        lines.append(f"{state}  {finding.subject}  {plain_text(files[0].stem)}{others}: {text}")
    return lines
