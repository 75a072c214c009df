"""`midalign score`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """\
midalign score --task midalign_slot_en --outputs outputs.jsonl
midalign score --task midalign_slot_sw --outputs outputs.jsonl --json
"""


def score(
    task: Annotated[
        str, typer.Option(metavar="NAME", help="Task of one language, such as midalign_slot_en.")
    ],
    outputs: Annotated[
        Path, typer.Option(metavar="FILE", help='JSON lines such as {"doc_id": 0, "output": "..."}.')
    ],
    split: Annotated[str, typer.Option(metavar="NAME", help="train, validation or test.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the record goes.")] = Path("results"),
    think_end_token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text that ends the reasoning, such as '</think>'. All text up to it is removed.",
        ),
    ] = None,
    comet: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Also score translations by COMET: a hub id, a folder or a checkpoint. "
            "First: midalign comet setup.",
        ),
    ] = None,
) -> None:
    """Score outputs of another program, as `midalign eval` would."""
    from midalign.evaluate import score as scoring
    from midalign.record import format_score

    entry, path = scoring.score(task, outputs, split, output, comet, _report, think_end_token)
    ((task, result),) = entry.tasks.items()
    metrics = {name: {"value": m.value, "stderr": m.stderr} for name, m in result.metrics.items()}
    if result.comet:
        metrics["comet"] = {"value": result.comet.value, "stderr": result.comet.stderr}
    if as_json:
        print(json.dumps({"task": task, "n": result.n, "metrics": metrics}))
        return
    for name, metric in metrics.items():
        print(f"{name:24} {format_score(metric['value'], 4)} ± {format_score(metric['stderr'], 4)}")
    print(path)


def _report(done: int, total: int) -> None:
    """Update one line on a terminal."""
    if sys.stderr.isatty():
        print(
            f"\rCOMET {done}/{total} segments", end="\n" if done == total else "", file=sys.stderr, flush=True
        )
