"""`midalign merge`"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from midalign.evaluate import run


def merge(
    adapters: Annotated[
        list[Path], typer.Argument(metavar="TASK ALIGN...", help="Peft folders, adapters of one base.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the merged adapter.")],
    weights: Annotated[
        list[str] | None,
        typer.Option(help="How much of each: 1,0.5. With --search several, to choose among. Default: all 1."),
    ] = None,
    in_blocks: Annotated[
        list[str] | None, typer.Option(help="Other weights in some blocks: 8-15=0,1; may be repeated.")
    ] = None,
    method: Annotated[
        Literal["cat", "svd", "linear", "ties", "dare_linear", "dare_ties"],
        typer.Option(help="cat is the exact weighted sum; see README."),
    ] = "cat",
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of svd, ties and dare. Default: the largest.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(min=0.01, max=0.99, help="Of ties and dare: entries kept. Default: 0.5.")
    ] = None,
    search: Annotated[
        str | None, typer.Option(metavar="TASKS", help="Choose among --weights by these tasks' dev split.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Items a task in --search.")] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="As the adapters were trained, for --search.")
    ] = False,
    system_instruction: Annotated[
        str | None, typer.Option(help="As the adapters were trained, for --search.")
    ] = None,
    base: Annotated[str, typer.Option(help="The adapters' base, for --search and --into-base.")] = "",
    into_base: Annotated[
        bool, typer.Option("--into-base", help="Write the base with the sum in its weights, no adapter.")
    ] = False,
) -> None:
    """Merge adapters that were trained apart into one."""
    import tempfile

    from rich.console import Console

    from midalign import merge as merging

    if len(adapters) < 2:
        raise typer.BadParameter("merging takes two adapters or more: midalign merge TASK ALIGN --output DIR")
    if (search or into_base) and not base:
        raise typer.BadParameter("--search and --into-base load the base: --base MODEL")
    if limit and not search:
        raise typer.BadParameter("--limit is for --search")
    if (apply_chat_template or system_instruction) and not search:
        raise typer.BadParameter("--apply-chat-template and --system-instruction are for --search")
    merging.refuse_existing(output)
    blocks = tuple(_blocks(text, len(adapters)) for text in in_blocks or ())
    given = [_numbers(text, len(adapters)) for text in weights or [",".join("1" * len(adapters))]]
    candidates = [merging.Weights(one, blocks) for one in given]
    if len(candidates) > 1 and not search:
        raise typer.BadParameter("several --weights are to be chosen among: --search TASKS --base MODEL")
    chosen = candidates[0]
    if search:
        from midalign.record import decimals

        console = Console(stderr=True)

        def report(now: "run.Progress") -> None:
            if now.finished:
                console.print(f"{now.model}  {now.finished}  {decimals(now.headline)}", highlight=False)

        folder = output.with_name(f"{output.name}.search")
        tasks = [name.strip() for name in search.split(",")]
        ranking = merging.search(
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
        for one in ranking:
            print(f"{100 * one.score:6.2f}  {one.weights}")
        chosen = ranking[0].weights
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / output.name if into_base else output
        found = merging.merge(adapters, chosen, target, method=method, rank=rank, density=density)
        if into_base:
            merging.into_base(target, base, output)
    print(
        f"{output}: {method} of {len(adapters)} adapters, weights {chosen}, rank {found.rank}, "
        f"{found.modules} modules; {100 * found.error:.2g}% from the weighted sum on random inputs, at most"
    )


def _numbers(text: str, count: int) -> tuple[float, ...]:
    """Weights, one an adapter."""
    try:
        found = tuple(float(one) for one in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        raise typer.BadParameter(f"{text!r} is not a weight for each of {count} adapters, such as 1,0.5")
    return found


def _blocks(text: str, count: int) -> tuple[range, tuple[float, ...]]:
    """Blocks and their weights, of 8-15=0,1."""
    match = re.fullmatch(r"(\d+)(?:-(\d+))?=(.+)", text)
    if not match:
        raise typer.BadParameter(f"--in-blocks {text}: expected FIRST-LAST=WEIGHTS, such as 8-15=0,1")
    return range(int(match[1]), int(match[2] or match[1]) + 1), _numbers(match[3], count)
