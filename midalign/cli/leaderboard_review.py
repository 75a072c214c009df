"""`midalign leaderboard review`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from midalign.cli.help import add_command
from midalign.cli.leaderboard import app
from midalign.cli.leaderboard_submit import print_review

EXAMPLES = """\
midalign leaderboard review HEAD --published origin/main
midalign leaderboard review FETCH_HEAD --published FETCH_HEAD^1 --output a.md
"""


@add_command(app, examples=EXAMPLES)
def review(
    proposed: Annotated[str, typer.Argument(metavar="REVISION", help="Git revision with the change.")],
    published: Annotated[
        str, typer.Option(metavar="REVISION", help="Git revision of the published board.")
    ] = "origin/main",
    board: Annotated[Path, typer.Option(metavar="FOLDER", help="Clone of the board's repository.")] = Path(),
    output: Annotated[Path, typer.Option(metavar="FILE", help="Markdown file to write.")] = Path("review.md"),
) -> None:
    """Check the records that a git revision adds or changes, and compare them with the baselines.

    Only files of records are read from the revisions. Exit status 1 if a check fails.
    """
    from midalign.files import write_atomically
    from midalign.leaderboard.revisions import change_of_revisions
    from midalign.leaderboard.submission import review_change
    from midalign.leaderboard.submission_text import comment_text

    with TemporaryDirectory() as scratch:
        outcome = review_change(change_of_revisions(board, published, proposed, Path(scratch)))
        print_review(outcome)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, comment_text(outcome).encode())
    print(f"Review: {output}")
    if outcome.failed:
        raise typer.Exit(1)
