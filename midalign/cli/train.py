"""`midalign-train` and `midalign train`."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from midalign.cli.exits import INTERRUPTED, run_command
from midalign.cli.help import add_command

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from midalign.train.progress import OnTrainProgress, TrainProgress
    from midalign.train.recipe import Recipe


QUIET = 0.5
"""Load average of the last minute below which a machine counts as idle."""


EXAMPLES = """\
midalign recipes list
midalign train mini --dry-run
midalign train mine.yaml updates=50 'seeds=[1,2]'
accelerate launch -m midalign.train mine.yaml
"""


def main() -> None:
    """Run `midalign-train`, which is `midalign train`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    add_command(app, examples=EXAMPLES)(train)
    run_command(lambda: app(prog_name="midalign-train"))


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="YAML file, or a name of `midalign recipes list`.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes, such as updates=50 'seeds=[1,2]'."),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Train only this arm of the recipe. Repeatable."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Adapters to train at once, one process per adapter.")
    ] = 1,
    allow_overlap: Annotated[
        bool,
        typer.Option("--allow-overlap", help="Train even if the training text contains evaluation text."),
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE", help="Upload adapters and their model cards to the Hugging Face hub."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Create private repositories with --push-to-hub.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show data, samples, and the time and memory needed. Nothing is saved."
        ),
    ] = False,
) -> None:
    """Train baseline and aligned adapters, then score them.

    `midalign train` and `midalign-train` are the same command. Interrupted runs resume from the last
    checkpoint. The base is scored too, for comparison.
    """
    if private and not push_to_hub:
        raise typer.BadParameter("--private is for --push-to-hub NAMESPACE")
    settle_environment()
    from rich.console import Console

    from midalign.cli.eval import print_differences
    from midalign.files import write_atomically
    from midalign.leaderboard.adapter_cards import runs_by_adapter, scored_card
    from midalign.model_card import CARD
    from midalign.record import SUFFIX
    from midalign.train.parallel import train_in_parallel
    from midalign.train.recipe import load_recipe
    from midalign.train.run import training_runs

    is_main = os.environ.get("RANK", "0") == "0"  # only the first process prints and evaluates
    changes = [*(overrides or []), *(["allow_overlap=true"] if allow_overlap else [])]
    settings = load_recipe(recipe, changes)
    console = Console(stderr=True, quiet=not is_main, markup=False)
    if dry_run:
        from midalign.train.preview import preview

        for line in preview(settings, arm):
            print(line, flush=True)
        return
    console.print(
        f"recipe {settings.name}: {sum(1 for _ in training_runs(settings, arm))} adapters "
        f"to {settings.output}/adapters"
    )
    with training_bars(console, visible=is_main) as report:
        adapters = train_in_parallel(settings, jobs, report, arm)
    if not is_main:
        return
    for adapter in adapters:
        print(adapter)
    if settings.lora is None:
        print(f"All weights were trained. To score them: midalign eval --base FOLDER --tasks {settings.task}")
    elif settings.evaluate:
        evaluate_adapters(settings, adapters)
        for folder, runs in runs_by_adapter(adapters, settings.output / "results").items():
            write_atomically(folder / CARD, scored_card(folder, runs).encode())
        print_differences(console, sorted((settings.output / "results").glob(f"*{SUFFIX}")))
    if push_to_hub:
        from midalign.hub_upload import plan_upload, upload_adapter

        for adapter in adapters:
            print(upload_adapter(plan_upload(adapter, push_to_hub), private=private))


def settle_environment() -> None:
    """Set the variables that torch and tqdm read when they are imported."""
    # Waiting threads that spin slow a busy machine down. On an idle machine, threads that sleep at once cost
    # a third of the speed, so they spin briefly.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if os.getloadavg()[0] < QUIET:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    os.environ["TQDM_DISABLE"] = "1"  # transformers' own bars


@contextmanager
def training_bars(console: "Console", visible: bool = True) -> "Iterator[OnTrainProgress]":
    """Show a bar per adapter, or a line per 25 updates without a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        TextColumn("{task.completed}/{task.total}  {task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not visible) as bars:
        tasks: dict[str, TaskID] = {}

        def report(now: "TrainProgress") -> None:
            key = f"{now.arm} {now.seed}"
            if key not in tasks:
                tasks[key] = bars.add_task(key, total=now.updates, state="")
            bars.update(tasks[key], completed=now.update, state=_state(now))
            if not console.is_terminal and (now.update % 25 == 0 or now.update == now.updates):
                line = f"{key}  {now.update}/{now.updates}  {_state(now)}"
                console.print(line, soft_wrap=True, highlight=False)

        yield report


def _state(now: "TrainProgress") -> str:
    losses = (f"{name} {now.losses[name]:.2f}" for name in ("task", "alignment") if name in now.losses)
    return f"{'  '.join(losses)}  {now.tokens_per_second:,.0f} tokens/s"


def evaluate_adapters(recipe: "Recipe", adapters: Sequence[Path]) -> None:
    """Score adapters in a fresh process, since training leaves memory allocated for every batch shape.

    This process gives the GPU back what training has left: vLLM starts with what is free.
    """
    from midalign.device import free_memory
    from midalign.train.evaluation_command import evaluation_command

    free_memory()
    command = evaluation_command(recipe, adapters, recipe.output / "results")
    process = subprocess.Popen([*command, "--save-outputs"])
    try:
        process.wait()
    except KeyboardInterrupt:  # the evaluation receives it too, and saves its work before it exits
        if process.wait() != INTERRUPTED:
            raise  # the evaluation was not ready to handle it
    if process.returncode == INTERRUPTED:
        os._exit(INTERRUPTED)  # the evaluation has printed the message
    if process.returncode:
        sys.exit(process.returncode)
