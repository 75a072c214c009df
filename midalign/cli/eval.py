"""`midalign eval`"""

from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    base: Annotated[str, typer.Option(help="A folder, a hub id, or mini for the bundled base.")],
    tasks: Annotated[list[str], typer.Option(help="Tasks or groups, separated by commas; may be repeated.")],
    adapter: Annotated[list[Path] | None, typer.Option(help="A peft folder; may be repeated.")] = None,
    adapters_only: Annotated[
        bool, typer.Option("--adapters-only", help="Leave the base out, whose answers often never end.")
    ] = False,
    engine: Annotated[
        Literal["auto", "vllm", "hf"], typer.Option(help="auto: vLLM on CUDA, Hugging Face elsewhere.")
    ] = "auto",
    split: Annotated[
        Literal["validation", "test"], typer.Option(help="validation: for whatever is chosen by its scores.")
    ] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Items a task: a seeded sample, the same for every task.")
    ] = None,
    supervised: Annotated[
        list[str] | None,
        typer.Option(help="Languages with task labels, for adapters trained elsewhere: en,es."),
    ] = None,
    aligned: Annotated[
        list[str] | None,
        typer.Option(help="Languages aligned with English, for adapters trained elsewhere: sw,hi."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the records.")] = Path("results"),
    note: Annotated[str, typer.Option(help="What readers must know of the base: 'dequantised'.")] = "",
    log_samples: Annotated[
        bool, typer.Option("--log-samples", help="Keep prompts and outputs in a file beside each record.")
    ] = False,
    comet: Annotated[
        str | None,
        typer.Option(help="COMET for translation tasks: a checkpoint, its folder or a hub id; see README."),
    ] = None,
    num_fewshot: Annotated[int, typer.Option(min=0, help="Examples in the prompt.")] = 0,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Wrap prompts as the base's tokenizer says.")
    ] = False,
    system_instruction: Annotated[
        str | None,
        typer.Option(help="Text of the system turn; of the first user turn where the template has no other."),
    ] = None,
    think_end_token: Annotated[
        str | None, typer.Option(help="Text that ends a reasoning model's thoughts: </think>. They are cut.")
    ] = None,
    max_thinking_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens per item for thoughts, before those of the answer.")
    ] = 2048,
    enable_thinking: Annotated[
        bool | None,
        typer.Option("--enable-thinking/--no-enable-thinking", help="Passed to the chat template."),
    ] = None,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Let outputs only be what the tasks' grammars allow.")
    ] = False,
    shard: Annotated[
        str, typer.Option(help="I/N: the I-th of N parts, for job arrays; then: midalign leaderboard merge.")
    ] = "",
    tensor_parallel: Annotated[int, typer.Option(min=1, help="GPUs that vLLM splits the model over.")] = 1,
) -> None:
    """Score a base and adapters on it, one record each. A killed evaluation goes on where it was."""
    import os

    os.environ["TQDM_DISABLE"] = "1"  # lm-eval's own bars, one a task; read when tqdm is imported
    # Read when torch is imported: threads that spin while they wait cost a shared machine most of its speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from midalign.evaluate import run

    settings = run.Settings(
        base=base,
        tasks=_names(tasks),
        output=output,
        adapters=tuple(adapter or ()),
        adapters_only=adapters_only,
        engine=engine,
        split=split,
        limit=limit,
        supervised=_names(supervised),
        aligned=_names(aligned),
        note=note,
        log_samples=log_samples,
        comet=comet,
        num_fewshot=num_fewshot,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
        think_end_token=think_end_token,
        max_thinking_tokens=max_thinking_tokens,
        enable_thinking=enable_thinking,
        constrained=constrained,
        shard=_shard(shard),
        tensor_parallel=tensor_parallel,
    )
    from midalign.record import decimals

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} items"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        shown = {}

        def report(now: "run.Progress") -> None:
            if now.model not in shown:
                shown[now.model] = bars.add_task(now.model, total=now.total)
            bars.update(shown[now.model], completed=now.done)
            if now.finished:
                cut = f"  ({now.cut_off} answers cut at the token limit)" if now.cut_off else ""
                console.print(f"{now.model}  {now.finished}  {decimals(now.headline)}{cut}", highlight=False)

        records = run.evaluate(settings, report)
    for path in records:
        print(path)


def _shard(text: str) -> tuple[int, int] | None:
    """I and N of I/N."""
    number, slash, of = text.partition("/")
    if not text:
        return None
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise typer.BadParameter(f"--shard {text}: expected I/N with I from 1 to N, such as 2/8")
    return int(number), int(of)


def _names(texts: list[str] | None) -> tuple[str, ...]:
    """The names of an option's values, each of which may hold several."""
    return tuple(name.strip() for text in texts or () for name in text.split(",") if name.strip())
