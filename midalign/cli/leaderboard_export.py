"""`midalign leaderboard export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from midalign.cli.help import add_command
from midalign.cli.leaderboard import app

EXAMPLES = """\
midalign leaderboard export --format csv --output board.csv
midalign leaderboard export --results results --format latex --output a.tex
midalign leaderboard export --format eee --output exchange
midalign leaderboard export --format model-index --output cards
"""


@add_command(app, examples=EXAMPLES)
def export(
    format_: Annotated[
        Literal["csv", "latex", "eee", "model-index"],
        typer.Option(
            "--format",
            metavar="NAME",
            help="csv (a row per record, task and metric), latex (booktabs), eee (files of Every Eval Ever), "
            "model-index (front matter of model cards).",
        ),
    ],
    output: Annotated[
        Path, typer.Option(metavar="PATH", help="A file for csv and latex, a folder for the others.")
    ],
    results: Annotated[Path, typer.Option(metavar="FOLDER", help="Records (*.json).")] = Path(
        "leaderboard/results"
    ),
) -> None:
    """Write records in a format that other programs read."""
    from midalign.files import write_atomically
    from midalign.leaderboard import exports
    from midalign.leaderboard.build import compare_records
    from midalign.leaderboard.every_eval import export_every_eval
    from midalign.leaderboard.load import load_runs
    from midalign.record import record_file_name

    if format_ == "csv":
        files = {output: exports.export_csv(load_runs(results))}
    elif format_ == "latex":
        files = {output: exports.export_latex(compare_records(results))}
    elif format_ == "eee":
        files = {output / path: text for path, text in export_every_eval(load_runs(results)).items()}
    else:
        cards = exports.export_model_index(load_runs(results))
        files = {output / f"{record_file_name(model)}.md": text for model, text in cards.items()}
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    print(f"{output}: {len(files)} {'file' if len(files) == 1 else 'files'}")
