"""`midalign eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from midalign.cli.comma_lists import split_commas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

EXAMPLES = """\
midalign eval --base mini --tasks midalign_mini_slot --limit 20
midalign eval --base google/gemma-3-270m --adapter runs/a --adapter runs/b \\
    --tasks midalign_slot --output results
midalign eval --base mini --tasks midalign_mini_slot --languages de,hi
midalign eval --base mini --tasks slot:my.jsonl --split validation
midalign eval --base mini --tasks midalign_mini_json --constrained
"""

MODELS = "Models"
ELSEWHERE = "Adapters trained without midalign"
TASKS = "Tasks"
PROMPTS = "Prompts"
GENERATION = "Generation"
REASONING = "Reasoning models"
RECORDS = "Records"
HARDWARE = "Hardware"


def evaluate(
    base: Annotated[
        str,
        typer.Option(metavar="MODEL", help="Folder or hub id, or mini (bundled).", rich_help_panel=MODELS),
    ],
    tasks: Annotated[
        list[str],
        typer.Option(
            metavar="NAMES", help="Tasks or groups, comma-separated. Repeatable.", rich_help_panel=TASKS
        ),
    ],
    languages: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODES", help="Only these languages of groups, such as sw,cy.", rich_help_panel=TASKS
        ),
    ] = None,
    adapter: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Peft adapter. Repeatable.", rich_help_panel=MODELS),
    ] = None,
    adapters_only: Annotated[
        bool,
        typer.Option(
            "--adapters-only",
            help="Skip the base model (an untuned base often generates until the token limit).",
            rich_help_panel=MODELS,
        ),
    ] = False,
    engine: Annotated[
        Literal["auto", "vllm", "hf"],
        typer.Option(
            metavar="NAME",
            help="vllm, hf, or auto: vLLM on CUDA, Hugging Face elsewhere.",
            rich_help_panel=HARDWARE,
        ),
    ] = "auto",
    split: Annotated[
        Literal["validation", "test"],
        typer.Option(
            metavar="NAME",
            help="validation for model selection, test for reporting.",
            rich_help_panel=TASKS,
        ),
    ] = "test",
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Items per task: a seeded sample, the same for every language.",
            rich_help_panel=TASKS,
        ),
    ] = None,
    supervised: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODES", help="Languages with task data, such as en,es.", rich_help_panel=ELSEWHERE
        ),
    ] = None,
    aligned: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CODES", help="Languages aligned with English, such as sw,hi.", rich_help_panel=ELSEWHERE
        ),
    ] = None,
    trained_on: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Training data, such as 'MASSIVE train, en es'. Boards ask for it.",
            rich_help_panel=ELSEWHERE,
        ),
    ] = "",
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where records go.", rich_help_panel=RECORDS)
    ] = Path("results"),
    note: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Remark on the base that tables show, such as 'dequantised'.",
            rich_help_panel=RECORDS,
        ),
    ] = "",
    log_samples: Annotated[
        bool,
        typer.Option(
            "--log-samples",
            help="Save prompts and outputs in a file next to each record.",
            rich_help_panel=RECORDS,
        ),
    ] = False,
    save_outputs: Annotated[
        bool,
        typer.Option(
            "--save-outputs", help="Save outputs, compressed, next to each new record.", hidden=True
        ),  # for training and sweeps
    ] = False,
    comparison: Annotated[
        bool,
        typer.Option(
            help="Print what adapters gain over the baseline of their recipe.", hidden=True
        ),  # for commands that compare by themselves
    ] = True,
    comet: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Also score translations by COMET: a hub id, a folder or a checkpoint. "
            "First: midalign comet setup.",
            rich_help_panel=TASKS,
        ),
    ] = None,
    num_fewshot: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Examples in the prompt.", rich_help_panel=PROMPTS),
    ] = 0,
    wording: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=3,
            help="Wording of the prompts: 1 is that of the tasks and of training. 2 and 3 measure how much "
            "scores depend on it.",
            rich_help_panel=PROMPTS,
        ),
    ] = 1,
    apply_chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            help="Format prompts with the chat template of the base's tokenizer.",
            rich_help_panel=PROMPTS,
        ),
    ] = False,
    system_instruction: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="System message. Without a system role in the template, it opens the first user message.",
            rich_help_panel=PROMPTS,
        ),
    ] = None,
    think_end_token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Text that ends the reasoning, such as '</think>'. All text up to it is removed.",
            rich_help_panel=REASONING,
        ),
    ] = None,
    max_thinking_tokens: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Reasoning tokens per item, in addition to those of the answer.",
            rich_help_panel=REASONING,
        ),
    ] = 2048,
    enable_thinking: Annotated[
        bool | None,
        typer.Option(
            "--enable-thinking/--no-enable-thinking",
            help="Value of enable_thinking in the chat template.",
            rich_help_panel=REASONING,
        ),
    ] = None,
    constrained: Annotated[
        bool,
        typer.Option(
            "--constrained",
            help="Constrain outputs to the task's grammar or JSON schema.",
            rich_help_panel=GENERATION,
        ),
    ] = False,
    shard: Annotated[
        str,
        typer.Option(
            metavar="I/N",
            help="Run part I of N, for job arrays. Join the parts with midalign leaderboard merge.",
            rich_help_panel=HARDWARE,
        ),
    ] = "",
    tensor_parallel: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="GPUs per model, vLLM only.", rich_help_panel=HARDWARE),
    ] = 1,
    max_loras: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Adapters per batch, vLLM only.", rich_help_panel=HARDWARE),
    ] = 1,
    batch_invariant: Annotated[
        bool,
        typer.Option(
            "--batch-invariant",
            envvar="VLLM_BATCH_INVARIANT",
            show_envvar=False,
            help="Make answers independent of the batch, so that repeated runs are equal. vLLM only.",
            rich_help_panel=HARDWARE,
        ),
    ] = False,
) -> None:
    """Score a base model and its adapters: one record per model.

    Interrupted evaluations resume where they stopped. Records that are up to date are kept.
    """
    import os

    os.environ["TQDM_DISABLE"] = "1"  # lm-eval shows a bar per task; read when tqdm is imported
    # Read when torch is imported: threads that spin while they wait cost a shared machine most of its speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from midalign.evaluate import run
    from midalign.evaluate.settings import EvalProgress, EvalSettings
    from midalign.harness import tasks_in_languages

    settings = EvalSettings(
        base=base,
        tasks=tuple(tasks_in_languages(split_commas(tasks), split_commas(languages or ()))),
        output=output,
        adapters=tuple(adapter or ()),
        adapters_only=adapters_only,
        engine=engine,
        split=split,
        limit=limit,
        supervised=tuple(split_commas(supervised or ())),
        aligned=tuple(split_commas(aligned or ())),
        note=note,
        trained_on=trained_on,
        log_samples=log_samples,
        save_outputs=save_outputs,
        comet=comet,
        num_fewshot=num_fewshot,
        wording=cast("Literal[1, 2, 3]", wording),
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
        think_end_token=think_end_token,
        max_thinking_tokens=max_thinking_tokens,
        enable_thinking=enable_thinking,
        constrained=constrained,
        shard=_shard(shard),
        tensor_parallel=tensor_parallel,
        max_loras=max_loras,
        batch_invariant=batch_invariant,
    )
    from midalign.record import format_score

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} items"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bars:
        shown = {}

        def report(now: EvalProgress) -> None:
            if now.model not in shown:
                shown[now.model] = bars.add_task(now.model, total=now.total)
            bars.update(shown[now.model], completed=now.done)
            if now.finished:
                cut = f"  (answers cut at the token limit: {now.cut_off})" if now.cut_off else ""
                console.print(
                    f"{now.model}  {now.finished}  {format_score(now.headline)}{cut}",
                    highlight=False,
                    markup=False,
                )

        records = run.evaluate_models(settings, report)
    for path in records:
        print(path)
    if comparison and len(records) > 1 and settings.shard is None:
        print_differences(console, records)


def print_differences(console: "Console", records: "Sequence[Path]") -> None:
    """Print what the arms among these records gain over their baselines, and the command for tables."""
    from midalign.errors import MidalignError
    from midalign.escaping import plain_text
    from midalign.leaderboard.build import compare_records
    from midalign.leaderboard.result_sentences import describe_results

    folder = records[0].parent
    try:
        sections = compare_records(folder, written={path.name for path in records})
    except (MidalignError, OSError) as error:  # about other records in the folder
        console.print(f"Not compared: {error}", soft_wrap=True, highlight=False, markup=False)
        return
    for section in sections:
        for line in describe_results(section, plain_text):
            console.print(line.replace("**", ""), highlight=False, markup=False)
    console.print(
        f"Tables and plots: midalign leaderboard build --results {folder}", soft_wrap=True, markup=False
    )


def _shard(text: str) -> tuple[int, int] | None:
    """Parse I/N, such as 2/8."""
    number, slash, of = text.partition("/")
    if not text:
        return None
    if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise typer.BadParameter(f"--shard {text}: expected I/N with I from 1 to N, such as 2/8")
    return int(number), int(of)
