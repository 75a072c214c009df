"""`midalign leaderboard`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign.cli.help import add_command, new_app

if TYPE_CHECKING:
    from rich.table import Table

    from midalign.leaderboard.section_figures import SectionFigures

app = new_app(
    "Build, check, verify, export and publish boards and records, find missing records, or join shards.",
    "midalign leaderboard build --results results --output board",
)


@add_command(app, examples="midalign leaderboard build --results results --output board")
def build(
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Records (*.json).")] = Path(
        "leaderboard/results"
    ),
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where README.md, index.html, leaderboard.json, page/ and plots/ go. "
            "Default: the folder above --results.",
        ),
    ] = None,
) -> None:
    """Build tables, plots and a page from records, and print the tables."""
    from midalign.cli.table_printing import print_table, table_console
    from midalign.escaping import plain_text
    from midalign.leaderboard.build import build_board as write_board
    from midalign.leaderboard.missing import find_outdated
    from midalign.leaderboard.result_sentences import describe_results

    folder = output or results.parent
    console = table_console()
    parts = write_board(results, folder)
    for part in parts:
        print_table(console, board_table(part))
        for line in describe_results(part, plain_text):
            console.print(line.replace("**", ""))
        console.print()
    console.print(
        f"Tables: {folder / 'README.md'}, page: {folder / 'index.html'}, "
        f"figures: {folder / 'leaderboard.json'}, plots: {folder / 'plots'}",
        soft_wrap=True,
    )
    runs = {(run.file, run.group): run for part in parts for row in part.section.rows for run in row.runs}
    if outdated := find_outdated(list(runs.values())):
        versions = sorted({f"{plain_text(entry.column.group)} {entry.versions}" for entry in outdated})
        number = "1 record is" if len(outdated) == 1 else f"{len(outdated)} records are"
        console.print(
            f"{number} of an earlier task version ({', '.join(versions)}). "
            "Print the commands that score them again:"
        )
        console.print(f"midalign leaderboard missing --results {results}", soft_wrap=True)


@add_command(app, examples="midalign leaderboard merge shards/1 shards/2 --output results")
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Folders with shards.")],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where complete records go.")],
) -> None:
    """Join the shards of `midalign eval --shard I/N` into records."""
    from midalign.evaluate.shards import merge_shards

    for path in merge_shards(folders, output):
        print(path)


def board_table(part: "SectionFigures") -> "Table":
    """Return a section's rows in at most 100 columns. The README has more columns."""
    from rich import box
    from rich.table import Table

    from midalign.escaping import plain_text
    from midalign.languages import ROLES
    from midalign.leaderboard.formatting import NONE, format_percent
    from midalign.leaderboard.section_figures import headline_title, items_span, section_title
    from midalign.leaderboard.sections import language_sets
    from midalign.leaderboard.tables import closed_gap, marked_label, retrieval_cell, retrieval_columns

    section = part.section
    roles = [role for role in ROLES if role in language_sets(section)]
    engines = sorted({plain_text(f"{model.engine} {model.dtype}") for model in part.models})
    view = Table(
        title=f"{plain_text(section_title(section))}\n"
        f"{headline_title(part)} in %, {items_span(section)} items per language, {' and '.join(engines)}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    view.add_column("model", overflow="fold", min_width=15)
    columns = retrieval_columns(part.models)
    for name in ("seeds", *roles, "gap", "gap closed", *columns):
        view.add_column(name, justify="right", no_wrap=True)
    if len(engines) > 1:
        view.add_column("engine")
    for model in part.models:
        means = model.means[section.scorer.HEADLINE]
        view.add_row(
            plain_text(marked_label(model)),
            "" if model.seeds == [None] else str(len(model.seeds)),
            *(format_percent(means[role].value) for role in roles),
            format_percent(model.gap["aligned"].value) if "aligned" in model.gap else NONE,
            closed_gap(part, model),
            *(retrieval_cell(section, model, layer) for layer in columns.values()),
            *([plain_text(f"{model.engine} {model.dtype}")] if len(engines) > 1 else []),
        )
    return view
