"""`midalign score`"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def score(
    task: Annotated[str, typer.Option(help="A language task, such as midalign_slot_en.")],
    outputs: Annotated[Path, typer.Option(help='Lines {"doc_id": 0, "output": "..."}.')],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the record.")] = Path("results"),
    think_end_token: Annotated[
        str | None, typer.Option(help="Text that ends a reasoning model's thoughts: </think>. They are cut.")
    ] = None,
    comet: Annotated[
        str | None, typer.Option(help="COMET too: a checkpoint, its folder or a hub id. Translation only.")
    ] = None,
) -> None:
    """Score outputs that were made elsewhere, with the same code and into the same record."""
    from midalign.evaluate import score as scoring
    from midalign.record import decimals

    entry, path = scoring.score(task, outputs, split, output, comet, _report, think_end_token)
    ((task, result),) = entry.tasks.items()
    metrics = {name: {"value": m.value, "stderr": m.stderr} for name, m in result.metrics.items()}
    if result.comet:
        metrics["comet"] = {"value": result.comet.value, "stderr": result.comet.stderr}
    if as_json:
        print(json.dumps({"task": task, "n": result.n, "metrics": metrics}))
        return
    for name, metric in metrics.items():
        print(f"{name:24} {decimals(metric['value'], 4)} ± {decimals(metric['stderr'], 4)}")
    print(path)


def _report(done: int, total: int) -> None:
    """One line on a terminal, written over."""
    if sys.stderr.isatty():
        print(
            f"\rCOMET {done}/{total} segments", end="\n" if done == total else "", file=sys.stderr, flush=True
        )
