"""`midalign leaderboard verify`."""

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign.cli.exits import ALTERED, NOT_VERIFIABLE
from midalign.cli.help import add_command
from midalign.cli.leaderboard import app

if TYPE_CHECKING:
    from midalign.evaluate.settings import EvalProgress

EXAMPLES = """\
midalign leaderboard verify results/mini.json --rerun 100
midalign leaderboard verify results/a.json --rerun 100 --adapter runs/a
midalign leaderboard verify results/b.json --rerun 100 --base /models/b
"""


@add_command(app, examples=EXAMPLES)
def verify(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A record (*.json).")],
    rerun: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Random items to answer again, up to five times as many in doubt."
        ),
    ] = 100,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Folder or hub id of the base. Default: the name in the record."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The adapter of a record of an adapter.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Seed of the draw, to repeat one. Default: unpredictable."),
    ] = None,
) -> None:
    """Answer random items of a record again, and compare them one by one.

    Exit status 0: verified. 3: not verifiable, such as an adapter that is not here. 4: altered.
    """
    import os

    os.environ["TQDM_DISABLE"] = "1"
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from rich.console import Console

    from midalign.escaping import plain_text, terminal_lines
    from midalign.leaderboard.verify import log_verification, verify_record

    console = Console(stderr=True, highlight=False, markup=False)

    def report(now: "EvalProgress") -> None:
        if now.finished:
            console.print(f"{now.finished}  {now.done}/{now.total} items")

    drawn = secrets.randbits(32) if seed is None else seed
    outcome = verify_record(record, rerun, drawn, base=base, adapter=adapter, report=report)
    print(f"{plain_text(record.stem)}: {outcome.verdict}. {terminal_lines(outcome.reason)}")
    if outcome.verdict == "not verifiable":
        raise typer.Exit(NOT_VERIFIABLE)
    for task, doc_id in outcome.differing:
        print(f"  differs: {plain_text(task)}, document {doc_id}")
    print(f"Seed of the draw: {outcome.seed}. Logged in {log_verification(outcome)}")
    if outcome.verdict == "altered":
        raise typer.Exit(ALTERED)
