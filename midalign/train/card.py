"""The model card of an adapter, from its manifest and records."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from midalign import adapter, record
from midalign.adapter import Manifest
from midalign.errors import AdapterError, first_line
from midalign.escaping import code_span, escape_markdown
from midalign.files import write_atomically

CARD = "README.md"


def write_card(folder: Path, records: Sequence[record.Record] = ()) -> None:
    """Write the card beside an adapter's weights, with the scores of its records."""
    manifest = adapter.read_manifest(folder)
    if manifest is None:
        raise AdapterError(f"{folder} has no {adapter.MANIFEST}: it is not from midalign-train")
    write_atomically(folder / CARD, render_card(manifest, records).encode())


def render_card(manifest: Manifest, records: Sequence[record.Record]) -> str:
    """Return the card in Markdown, with the front matter that model hubs read."""
    front = {
        "base_model": manifest.base,
        "library_name": "peft",
        "tags": ["lora", "midalign", "multilingual"],
        "language": sorted({code.partition("_")[0] for code in (*manifest.supervised, *manifest.aligned)}),
    }
    method = (
        f"aligned with English on pairs of `{manifest.pairs}` after block {manifest.layer}"
        if manifest.layer is not None
        else "without alignment"
    )
    losses = ", ".join(f"{name} {loss:.2f}" for name, loss in manifest.training.items())
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {escape_markdown(manifest.name)}",
        "",
        f"A LoRA adapter for {code_span(manifest.base)}, trained by midalign on {code_span(manifest.task)}, "
        f"{method}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| arm, seed | {escape_markdown(manifest.arm)}, {manifest.seed} |",
        f"| supervised languages | {', '.join(manifest.supervised)} |",
        f"| aligned languages | {', '.join(manifest.aligned) if manifest.layer is not None else 'none'} |",
        *([f"| dtype of training | {manifest.dtype} |"] if manifest.dtype else []),
        f"| updates, tokens | {manifest.updates:,}, {manifest.tokens:,} |",
        f"| last losses | {losses or 'none'} |",
        f"| recipe | {escape_markdown(manifest.recipe.name)}, digest `{manifest.recipe.digest[:12]}` |",
        f"| base, sha256 | `{manifest.base_digest[:12]}` |",
        "",
        *(line for entry in records for line in _scores(entry)),
        *([] if records else ["Not scored yet: `midalign eval`.", ""]),
        "## Use",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{manifest.base}"), FOLDER)',
        "```",
        "Prompts are those of the task: `midalign-train RECIPE --dry-run` shows them.",
        "",
    ]
    return "\n".join(lines)


def _scores(scored: record.Record) -> list[str]:
    """Return the lines of a record, with a table per set of metrics, as they differ between families."""
    sample = f"{scored.sample.limit} items per language" if scored.sample.limit else "all items"
    regime = scored.decoding.get("regime", "free")
    lines = [
        f"## Scores on {scored.sample.split}, {sample}, {regime} decoding",
        "",
        f"Record `{scored.name}`. Value ± bootstrap standard error.",
        "",
        *_overlap(scored),
    ]
    tasks_by_metrics = defaultdict(list)
    for task, result in scored.tasks.items():
        tasks_by_metrics[tuple(result.metrics)].append((task, result))
    for names, tasks in tasks_by_metrics.items():
        lines += [f"| task | role | {' | '.join(names)} |", f"| --- | --- |{' --- |' * len(names)}"]
        for task, result in tasks:
            scores = (result.metrics[name] for name in names)
            values = (
                f"{record.format_score(score.value)} ± {record.format_score(score.stderr)}"
                for score in scores
            )
            lines.append(f"| {task} | {scored.roles.of(result.language)} | {' | '.join(values)} |")
        lines.append("")
    return lines


def _overlap(scored: record.Record) -> list[str]:
    """Return lines on the overlap of test text and training text."""
    lines = [f"Overlap with the training text: {entry.sentence}.  " for entry in scored.known_overlaps]
    if scored.overlap is not None:
        lines += [f"Overlap not checked: {text}.  " for text in scored.overlap.unchecked]
    return [*lines, ""] if lines else []


def push_adapter(folder: Path, namespace: str) -> str:
    """Upload an adapter's folder as `namespace/<its name>` to the Hugging Face hub and return the address.

    The token is that of `hf auth login` or $HF_TOKEN. Raises AdapterError with the hub's message.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    manifest = adapter.read_manifest(folder)
    assert manifest is not None
    hub, name = HfApi(), f"{namespace}/{manifest.name}"
    try:
        hub.create_repo(name, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, commit_message=f"{manifest.name}, by midalign")
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise AdapterError(
            f"{folder} was not uploaded to {name}: {first_line(error)}. The adapter is complete. "
            f"Fix the upload (hf auth login, HF_TOKEN) and rerun the same command"
        ) from error
    return f"{hub.endpoint}/{name}"
