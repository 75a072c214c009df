"""`midalign merge`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from midalign.cli.comma_lists import split_commas

if TYPE_CHECKING:
    from midalign.evaluate.settings import EvalProgress


EXAMPLES = """\
midalign merge runs/task runs/align --weights 1,0.5 --output merged
midalign merge runs/task runs/align --weights 1,0.25 --weights 1,0.5 \\
    --search midalign_mini_slot --base mini --output merged
"""

WEIGHTS = "Weights"
METHOD = "Method"
OUTPUT = "Output"


def merge(
    adapters: Annotated[
        list[Path],
        typer.Argument(metavar="ADAPTER", help="Peft adapters of the same base."),
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where the merged adapter goes.", rich_help_panel=OUTPUT),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBERS",
            help="One weight per adapter, such as 1,0.5. Repeat it for --search. Default: 1 for each.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    in_blocks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RANGE=NUMBERS",
            help="Other weights in some blocks, such as 8-15=0,1. Repeatable.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    method: Annotated[
        Literal["cat", "svd", "linear", "ties", "dare_linear", "dare_ties"],
        typer.Option(
            metavar="NAME",
            help="cat (the exact weighted sum), svd, linear, ties, dare_linear or dare_ties.",
            rich_help_panel=METHOD,
        ),
    ] = "cat",
    rank: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Rank for svd, ties and dare. Default: the largest.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0.01,
            max=0.99,
            help="Share of entries that ties and dare keep. Default: 0.5.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            metavar="TASKS",
            help="Choose the --weights with the best score on these tasks' validation split.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Items per task in the search.", rich_help_panel=WEIGHTS),
    ] = None,
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            help="Search with the base's chat template, as in training.",
            rich_help_panel=WEIGHTS,
        ),
    ] = False,
    system_instruction: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Search with this system instruction, as in training.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    base: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Base of the adapters, to search or to merge into it.",
            rich_help_panel=OUTPUT,
        ),
    ] = "",
    into_base: Annotated[
        bool,
        typer.Option(
            "--into-base", help="Write a whole model instead of an adapter.", rich_help_panel=OUTPUT
        ),
    ] = False,
) -> None:
    """Merge adapters of the same base into one."""
    import tempfile

    from rich.console import Console

    from midalign.merge import merge_adapters
    from midalign.merge.output import refuse_existing
    from midalign.merge.search import search_weights
    from midalign.merge.weights import MergeWeights
    from midalign.merge.whole_model import merge_into_base

    if len(adapters) < 2:
        raise typer.BadParameter(
            "merging needs at least two adapters: midalign merge TASK ALIGN --output FOLDER"
        )
    if (search or into_base) and not base:
        raise typer.BadParameter("--search and --into-base need the base: add --base MODEL")
    if limit and not search:
        raise typer.BadParameter("--limit is for --search")
    if (apply_chat_template or system_instruction) and not search:
        raise typer.BadParameter("--apply-chat-template and --system-instruction are for --search")
    refuse_existing(output)
    blocks = tuple(_blocks(text, len(adapters)) for text in in_blocks or ())
    given = [_numbers(text, len(adapters)) for text in weights or [",".join("1" * len(adapters))]]
    candidates = [MergeWeights(everywhere, blocks) for everywhere in given]
    if len(candidates) > 1 and not search:
        raise typer.BadParameter("several --weights need --search TASKS --base MODEL to choose among them")
    chosen = candidates[0]
    if search:
        from midalign.record import format_score

        console = Console(stderr=True, markup=False)

        def report(now: "EvalProgress") -> None:
            if now.finished:
                console.print(f"{now.model}  {now.finished}  {format_score(now.headline)}", highlight=False)

        folder = output.with_name(f"{output.name}.search")
        tasks = split_commas([search])
        ranking = search_weights(
            adapters,
            candidates,
            folder,
            base=base,
            tasks=tasks,
            limit=limit,
            report=report,
            method=method,
            rank=rank,
            density=density,
            apply_chat_template=apply_chat_template,
            system_instruction=system_instruction,
        )
        for candidate in ranking:
            print(f"{100 * candidate.score:6.2f}  {candidate.weights}")
        chosen = ranking[0].weights
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / output.name if into_base else output
        merged = merge_adapters(adapters, chosen, target, method=method, rank=rank, density=density)
        if into_base:
            merge_into_base(target, base, output)
    print(
        f"{output}: {method} of {len(adapters)} adapters, weights {chosen}, rank {merged.rank}, "
        f"{merged.modules} modules. Largest deviation from the exact weighted sum: {100 * merged.error:.2g} %"
    )


def _numbers(text: str, count: int) -> tuple[float, ...]:
    """Parse one weight per adapter."""
    try:
        weights = tuple(float(number) for number in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) != count:
        raise typer.BadParameter(f"{text!r} is not a weight for each of {count} adapters, such as 1,0.5")
    return weights


def _blocks(text: str, count: int) -> tuple[range, tuple[float, ...]]:
    """Parse blocks and their weights, such as 8-15=0,1."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?=(.+)", text)
    if not match:
        raise typer.BadParameter(f"--in-blocks {text}: expected FIRST-LAST=WEIGHTS, such as 8-15=0,1")
    return range(int(match[1]), int(match[2] or match[1]) + 1), _numbers(match[3], count)
