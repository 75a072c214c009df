"""`midalign push`."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\
midalign push runs/mine/adapters/aligned-seed1 --to NAMESPACE --dry-run
midalign push merged --to NAMESPACE --results results --private
"""


def push(
    adapters: Annotated[
        list[Path],
        typer.Argument(
            metavar="ADAPTER",
            help="Folders of midalign-train or midalign merge.",
            exists=True,
            file_okay=False,
        ),
    ],
    to: Annotated[
        str, typer.Option(metavar="NAMESPACE", help="User or organisation of the Hugging Face hub.")
    ],
    results: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of records whose scores go into the model cards."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create private repositories.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print repositories, files and sizes. Nothing is sent.")
    ] = False,
) -> None:
    """Upload adapters with their model cards to the Hugging Face hub."""
    from midalign.errors import RecordError
    from midalign.hub_upload import plan_upload, upload_adapter
    from midalign.leaderboard.adapter_cards import runs_by_adapter, scored_card

    cards = {}
    for folder, runs in runs_by_adapter(adapters, results).items() if results is not None else ():
        if not runs:
            raise RecordError(
                f"{results} has no record of the weights in {folder}. Score them first: "
                f"midalign eval --base BASE --tasks TASKS --adapter {folder} --output {results}"
            )
        cards[folder] = scored_card(folder, runs)
    uploads = [plan_upload(folder, to, cards.get(folder)) for folder in adapters]
    for upload in uploads:
        if not dry_run:
            print(upload_adapter(upload, private=private))
            continue
        visibility = "private" if private else "public, unless your organisation's default is private"
        print(f"{upload.repository} ({visibility})")
        for name in upload.files:
            print(f"  {upload.size(name):>13,} bytes  {name}")
    if dry_run:
        print("Dry run: nothing was uploaded. Rerun without --dry-run.")
