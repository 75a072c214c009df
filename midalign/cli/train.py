"""`midalign-train` and `midalign train`."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign import cli

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from midalign.train import run
    from midalign.train.recipe import Recipe
    from midalign.train.run import Report


QUIET = 0.5
"""Processes that wait for a core, on average of the last minute, on a machine that does little else."""


def main() -> None:
    """Entry point of `midalign-train`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(train)
    cli.run(app)


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe of the package (mini, massive-gemma) or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as updates=50 seeds=[1,2]."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Train this arm of the recipe alone, or several by several --arm."),
    ] = None,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Train although the training text holds what is evaluated."),
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE", help="Upload the adapters to the Hugging Face hub, scores and all."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show data, samples, time and memory; train and keep nothing.")
    ] = False,
) -> None:
    """Train the arms of a recipe, then evaluate base and adapters."""
    settle_environment()
    from rich.console import Console

    from midalign.train import recipe as recipes
    from midalign.train import run

    main = os.environ.get("RANK", "0") == "0"  # of several processes one speaks, and evaluates
    changes = [*(overrides or []), *(["allow_overlap=true"] if allow_overlap else [])]
    settings = recipes.load(recipe, changes)
    console = Console(stderr=True, quiet=not main)
    if dry_run:
        from midalign.train.preview import preview

        for line in preview(settings, arm):
            print(line, flush=True)
        return
    console.print(
        f"recipe {settings.name}: {len(list(run.runs(settings, arm)))} adapters to {settings.output}/adapters"
    )
    with training_bars(console, visible=main) as report:
        adapters = run.train(settings, report, arm)
    if not main:
        return
    for adapter in adapters:
        print(adapter)
    if settings.lora is None:
        print(f"All weights were trained; to score: midalign eval --base FOLDER --tasks {settings.task}")
    elif settings.evaluate:
        evaluate(settings, adapters)
        _write_scores(adapters, settings.output / "results")
    if push_to_hub:
        from midalign.train import card

        for adapter in adapters:
            print(card.push(adapter, push_to_hub))


def _write_scores(adapters: list[Path], results: Path) -> None:
    """Put the scores into the adapters' cards: those of every whole record of these very weights."""
    from midalign import record
    from midalign.adapter import digest
    from midalign.leaderboard.load import verified
    from midalign.train import card

    records_by_digest: dict[str, list[record.Record]] = {}
    for path in sorted(results.glob(f"*{record.SUFFIX}"), key=lambda path: path.stem):
        entry = record.read(path)
        if entry.adapter and entry.shard is None:
            records_by_digest.setdefault(entry.adapter.digest, []).append(verified(path))
    for folder in adapters:
        card.write(folder, records_by_digest.get(digest(folder), []))


def settle_environment() -> None:
    """What torch and tqdm read when they are imported."""
    # Threads that spin while they wait cost a busy machine most of its speed, and threads that sleep at once
    # cost a quiet one a third: a short spin where nothing else runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if os.getloadavg()[0] < QUIET:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ["TQDM_DISABLE"] = "1"  # transformers' bars around ours


@contextmanager
def training_bars(console: "Console", visible: bool = True) -> "Iterator[Report]":
    """A bar for every adapter in training; where there is no terminal, a line for every 25 updates."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TextColumn("{task.completed}/{task.total}  {task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not visible) as bars:
        tasks: dict[str, TaskID] = {}

        def report(now: "run.Progress") -> None:
            key = f"{now.arm} {now.seed}"
            if key not in tasks:
                tasks[key] = bars.add_task(key, total=now.updates, state="")
            bars.update(tasks[key], completed=now.update, state=_state(now))
            if not console.is_terminal and (now.update % 25 == 0 or now.update == now.updates):
                line = f"{key}  {now.update}/{now.updates}  {_state(now)}"
                console.print(line, soft_wrap=True, highlight=False)

        yield report


def _state(now: "run.Progress") -> str:
    both = (f"{name} {now.losses[name]:.2f}" for name in ("task", "alignment") if name in now.losses)
    return f"{'  '.join(both)}  {now.tokens_per_second:,.0f} tokens/s"


def evaluate(recipe: "Recipe", adapters: Sequence[Path]) -> None:
    """Score in a fresh process: one that has trained keeps memory for every batch shape it has seen."""
    from midalign.train.stream import task_names

    evaluation = recipe.evaluation
    tasks = [recipe.task] if evaluation.languages == "all" else task_names(recipe.task, evaluation.languages)
    options = {
        "--base": recipe.base,
        "--tasks": ",".join(tasks),
        "--engine": evaluation.engine,
        "--split": evaluation.split,
        "--output": str(recipe.output / "results"),
        "--limit": evaluation.limit,
        "--note": evaluation.note,
    }
    command = [sys.executable, "-m", "midalign", "eval"]
    command += [str(word) for option in options.items() if option[1] is not None for word in option]
    command += [word for adapter in adapters for word in ("--adapter", str(adapter))]
    command += recipe.prompt_options
    command += [] if evaluation.base else ["--adapters-only"]
    process = subprocess.Popen(command)
    try:
        process.wait()
    except KeyboardInterrupt:  # it reached the evaluation too, which puts down what it has before it ends
        if process.wait() != cli.INTERRUPTED:
            raise  # so early that it could not say so
    if process.returncode == cli.INTERRUPTED:
        os._exit(cli.INTERRUPTED)  # the evaluation has told the user already
    if process.returncode:
        sys.exit(process.returncode)
