"""`midalign leaderboard publish`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign.cli.help import add_command
from midalign.cli.leaderboard import app

if TYPE_CHECKING:
    from rich.table import Table

    from midalign.leaderboard.publish import PublishTarget, UploadFolder

EXAMPLES = """\
midalign leaderboard publish --to public
midalign leaderboard publish --to public --freeze 2026.12 --yes
midalign leaderboard publish --to pages --repository ../board.git --yes
midalign leaderboard publish --to hub --repository NAMESPACE/NAME --yes
"""


@add_command(app, examples=EXAMPLES)
def publish(
    to: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="Target: a folder, `pages` (branch of a git repository) or `hub` (static Space and data "
            "set). For a folder named pages or hub, write ./pages.",
        ),
    ],
    repository: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="pages: URL or path of the git repository. hub: NAMESPACE/NAME."),
    ] = None,
    branch: Annotated[
        str | None, typer.Option(metavar="NAME", help="pages: the branch. Default: gh-pages.")
    ] = None,
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Records (*.json) of the board.")] = Path(
        "leaderboard/results"
    ),
    board: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that `midalign leaderboard build` wrote. Default: the folder above --results.",
        ),
    ] = None,
    freeze: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Also freeze this state as a citable version, such as 2026.12."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Publish. Without it, print the plan only.")] = False,
) -> None:
    """Publish a built board with its records, and freeze citable versions.

    Without --yes nothing is written.
    """
    from midalign.cli.table_printing import print_table, table_console
    from midalign.escaping import plain_text
    from midalign.leaderboard.publish import publish_board

    target = _target(to, repository, branch)
    publication = publish_board(board or results.parent, results, target, freeze, dry_run=not yes)
    console = table_console()
    for upload in publication.uploads:
        console.print(plain_text(upload.address, longest=1000), soft_wrap=True)
        print_table(console, upload_table(upload))
        if upload.removed:
            console.print(f"Removed: {len(upload.removed)} files of the earlier publication")
    console.print(f"Message: {publication.message}", soft_wrap=True)
    if publication.versions:
        console.print(f"Frozen versions that stay: {', '.join(publication.versions)}", soft_wrap=True)
    if not yes:
        console.print("Nothing was written. To publish, add --yes")
    elif not publication.addresses:
        console.print("Nothing has changed since the last publication.")
    for address in publication.addresses:
        console.print(f"Published: {plain_text(address)}", soft_wrap=True)


def _target(to: str, repository: str | None, branch: str | None) -> "PublishTarget":
    """Return the target that the options name. Raises MidalignError for options that do not fit it."""
    from midalign.errors import MidalignError
    from midalign.leaderboard.publish import FolderTarget
    from midalign.leaderboard.publish_branch import BRANCH, BranchTarget
    from midalign.leaderboard.publish_hub import HubTarget

    if branch is not None and to != "pages":
        raise MidalignError(f"--branch belongs to --to pages, found --to {to}. Omit it")
    if to == "pages":
        if repository is None:
            raise MidalignError(
                '--to pages needs a git repository: --repository "$(git remote get-url origin)"'
            )
        return BranchTarget(repository, branch or BRANCH)
    if to == "hub":
        if repository is None:
            raise MidalignError("--to hub needs a name on the hub: --repository NAMESPACE/NAME")
        return HubTarget(repository)
    if repository is not None:
        raise MidalignError(f"--repository belongs to --to pages or --to hub, found --to {to}. Omit it")
    return FolderTarget(Path(to))


def upload_table(upload: "UploadFolder") -> "Table":
    """Return a row per folder and per file outside of folders, with the number of files and their size."""
    from rich import box
    from rich.table import Table

    sizes: dict[str, list[int]] = {}
    for path, size in upload.sizes.items():
        *folders, name = path.split("/")
        depth = 2 if folders[:1] == ["versions"] else 1
        sizes.setdefault("/".join([*folders[:depth], ""]) if folders else name, []).append(size)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("path", overflow="fold")
    table.add_column("files", justify="right")
    table.add_column("kB", justify="right")
    for path in sorted(sizes):
        table.add_row(path, f"{len(sizes[path]):,}", f"{sum(sizes[path]) / 1000:,.1f}")
    table.add_row("total", f"{len(upload.sizes):,}", f"{sum(upload.sizes.values()) / 1000:,.1f}")
    return table
