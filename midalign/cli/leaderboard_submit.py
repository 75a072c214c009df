"""`midalign leaderboard submit`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign.cli.help import add_command
from midalign.cli.leaderboard import app

if TYPE_CHECKING:
    from midalign.leaderboard.submission import ChangeReview

EXAMPLES = """\
midalign leaderboard submit results --board ../board
midalign leaderboard submit results/a.json results/b.json
"""


@add_command(app, examples=EXAMPLES)
def submit(
    records: Annotated[list[Path], typer.Argument(metavar="RECORD", help="Records (*.json) or folders.")],
    board: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Clone of the board's repository. Records are copied into a new folder of its "
            "leaderboard/results and compared with the published records.",
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder for the text of the pull request, and for the records if --board is missing.",
        ),
    ] = Path("submission"),
) -> None:
    """Prepare a pull request that adds records to a board. Nothing is pushed.

    If a record fails a check, nothing is written and the exit status is 1.
    """
    from midalign.files import write_atomically
    from midalign.leaderboard.check import record_files
    from midalign.leaderboard.submission import RESULTS, new_submission, review_change, write_submission
    from midalign.leaderboard.submission_text import pull_request_text, pull_request_title

    change = new_submission(record_files(records), board)
    review = review_change(change)
    print_review(review)
    if review.failed:
        raise typer.Exit(1)
    name = change.submitted[0].partition("/")[0]
    results = board / RESULTS if board else output
    written = write_submission(review, results)
    output.mkdir(parents=True, exist_ok=True)
    text = output / f"{name}.md"
    write_atomically(text, pull_request_text(review).encode())
    print(f"Records: {results / name} ({len(written)} files)")
    print(f"Text of the pull request: {text}\n\nNext:\n")
    for command in _next_commands(name, results, board, pull_request_title(review)):
        print(f"    {command}")
    print("\nThen open a pull request with this text, and fill in its declaration.")


def _next_commands(name: str, results: Path, board: Path | None, title: str) -> list[str]:
    """Return the commands to type in a shell. `name` is safe in one."""
    steps = [
        f"cd {shlex.quote(str(board or 'CLONE'))}",
        f"git switch --create records-{name}",
        f"git add leaderboard/results/{name}",
        f"git commit --message {shlex.quote(title)}",
        f"git push --set-upstream origin records-{name}",
    ]
    copy = f"cp -r {shlex.quote(str(results / name))} CLONE/leaderboard/results/"
    return steps if board else [copy, *steps]


def print_review(review: "ChangeReview") -> None:
    """Print the checks of a review, its failures and its notes."""
    from midalign.cli.leaderboard_check import check_table, finding_lines
    from midalign.cli.table_printing import print_table, table_console
    from midalign.escaping import plain_text

    console = table_console()
    if review.checks:
        print_table(console, check_table(review.checks))
    for line in finding_lines(review.checks):
        console.print(line, soft_wrap=True)
    for problem in review.problems:
        console.print(f"FAIL  {plain_text(problem, longest=1000)}", soft_wrap=True)
    for note in review.notes:
        console.print(f"note  {plain_text(note, longest=1000)}", soft_wrap=True)
    failed = sum(check.failed for check in review.checks)
    number = len(review.checks)
    console.print(f"{number} {'record' if number == 1 else 'records'}: {number - failed} pass, {failed} fail")
