"""The model card of an adapter: what it was trained on and what it scores, from its manifest and record."""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from midalign import adapter, record
from midalign.adapter import Manifest
from midalign.errors import AdapterError

CARD = "README.md"


def write(folder: Path, scored: record.Record | None = None) -> None:
    """Put the card beside an adapter's weights, with scores where there is a record of them."""
    manifest = adapter.read_manifest(folder)
    if manifest is None:
        raise AdapterError(f"{folder} has no {adapter.MANIFEST}: it is not from midalign-train")
    partial = folder / f"{CARD}.partial"
    partial.write_text(text(manifest, scored), "utf-8")
    os.replace(partial, folder / CARD)


def text(manifest: Manifest, scored: record.Record | None) -> str:
    """The card in Markdown, with the front matter that model hubs read."""
    front = {
        "base_model": manifest.base,
        "library_name": "peft",
        "tags": ["lora", "midalign", "multilingual"],
        "language": sorted({code.partition("_")[0] for code in (*manifest.supervised, *manifest.aligned)}),
    }
    how = (
        f"aligned with English on pairs of `{manifest.pairs}` after block {manifest.layer}"
        if manifest.layer is not None
        else "without alignment"
    )
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        f"# {manifest.name}",
        "",
        f"A LoRA adapter for `{manifest.base}`, trained by midalign on `{manifest.task}`, {how}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| arm, seed | {manifest.arm}, {manifest.seed} |",
        f"| supervised languages | {', '.join(manifest.supervised)} |",
        f"| aligned languages | {', '.join(manifest.aligned) if manifest.layer is not None else 'none'} |",
        f"| updates, tokens | {manifest.updates:,}, {manifest.tokens:,} |",
        f"| last losses | {', '.join(f'{name} {loss:.2f}' for name, loss in manifest.training.items())} |",
        f"| recipe | {manifest.recipe.name}, digest `{manifest.recipe.digest[:12]}` |",
        f"| base, sha256 | `{manifest.base_digest[:12]}` |",
        "",
        *_scores(scored),
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


def _scores(scored: record.Record | None) -> list[str]:
    if scored is None:
        return ["Not scored yet: `midalign eval`.", ""]
    role_of = {code: role for role, codes in scored.roles.model_dump().items() for code in codes}
    names = list(next(iter(scored.tasks.values())).metrics)
    sample = f"{scored.sample.limit} items a language" if scored.sample.limit else "all items"
    lines = [
        f"## Scores on {scored.sample.split}, {sample}",
        "",
        f"| task | role | {' | '.join(names)} |",
        f"| --- | --- |{' --- |' * len(names)}",
    ]
    for task, result in scored.tasks.items():
        values = (_value(result.metrics, name) for name in names)
        lines.append(f"| {task} | {role_of.get(result.language, 'unseen')} | {' | '.join(values)} |")
    return [*lines, "", "Value ± bootstrap standard error.", ""]


def _value(metrics: Mapping[str, record.Metric], name: str) -> str:
    return f"{metrics[name].value:.3f} ± {metrics[name].stderr:.3f}" if name in metrics else ""


def push(folder: Path, namespace: str) -> str:
    """Upload an adapter's folder as `namespace/<its name>` to the Hugging Face hub and return the address.

    The token is that of `hf auth login` or $HF_TOKEN. Raises AdapterError with what the hub said.
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
            f"{folder} was not uploaded to {name}: {str(error).splitlines()[0]}. The adapter is whole; once "
            f"that is mended (hf auth login, HF_TOKEN): the same command"
        ) from None
    return f"{hub.endpoint}/{name}"
