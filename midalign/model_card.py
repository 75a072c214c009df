"""The model card of an adapter, from its manifest and records."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from midalign import adapter, harness, record
from midalign.adapter import Manifest, TrainingText
from midalign.bases import NAMES
from midalign.data.registry import DATA_SETS, HUB_NAMES, data_set
from midalign.errors import AdapterError, MidalignError
from midalign.escaping import code_block, code_span, escape_markdown
from midalign.families import family
from midalign.files import without_folders, write_atomically

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CARD = "README.md"

HERE = 'adapter = "."  # the folder of this file'
"""Line of the card's code that names the adapter's folder.

An upload replaces it with the repository's name.
"""

EARLIER_CODE = "), FOLDER)"
"""End of the code in cards of earlier versions, which does not run. An upload replaces the whole card."""

SHOWN_PROMPTS = 4
"""Most prompts in a card."""

USES = {
    "slot": "slot filling of single utterances",
    "slot_spans": "slot filling of single utterances",
    "structured": "extraction from single texts as JSON",
    "translation": "translation of single segments",
}
"""Intended use by family."""


def write_card(folder: Path) -> None:
    """Write the card next to the weights of an adapter, or of a whole model, that has no scores yet."""
    write_atomically(folder / CARD, folder_card(folder).encode())


def folder_card(
    folder: Path, records: Sequence[record.Record] = (), scores: Sequence["EvalResult"] = ()
) -> str:
    """Return the card of a folder with weights and a manifest, in Markdown, with the scores of its records.

    `scores` are the same scores for the hub. Raises AdapterError without a manifest.
    """
    manifest = adapter.read_manifest(folder)
    if manifest is None:
        raise AdapterError(
            f"{folder} has no {adapter.MANIFEST}, from which the card is written. midalign-train and "
            f"midalign merge write it. For other adapters, write {CARD} by hand and use: hf upload"
        )
    return render_card(manifest, records, scores, whole=not (folder / adapter.CONFIG).is_file())


def render_card(
    manifest: Manifest,
    records: Sequence[record.Record] = (),
    scores: Sequence["EvalResult"] = (),
    *,
    whole: bool = False,
) -> str:
    """Return the card in Markdown, with the front matter that model hubs read.

    Args:
        manifest: how the adapter was made.
        records: records with scores of its weights.
        scores: the same scores for the hub.
        whole: True for a whole model instead of an adapter.
    """
    lines = [
        f"# {escape_markdown(manifest.name)}",
        "",
        _summary(manifest, whole),
        "",
        *_uses(manifest),
        *_facts(manifest),
        *_data(manifest),
        *_prompts(manifest),
        *_settings(manifest),
        *(line for entry in records for line in _scores(entry)),
        *([] if records else ["## Scores", "", "Not scored yet.", ""]),
        *_code(manifest, whole),
    ]
    return "\n".join([_front_matter(manifest, scores, whole), *lines])


def base_on_hub(manifest: Manifest) -> str | None:
    """Return the hub id of the base, None if it is not known. Older manifests have it as the base's name."""
    return manifest.base_hub_id or (manifest.base if "/" in manifest.base else None)


def _front_matter(manifest: Manifest, scores: Sequence["EvalResult"], whole: bool) -> str:
    from huggingface_hub import ModelCardData

    codes = (*manifest.supervised, *(manifest.aligned if manifest.layer is not None else ()))
    names = {HUB_NAMES[name] for text in _texts(manifest) for name in _data_sets(text) if name in HUB_NAMES}
    data = ModelCardData(
        base_model=base_on_hub(manifest),
        datasets=sorted(names) or None,
        eval_results=list(scores) or None,
        language=sorted({code.partition("_")[0] for code in codes}),
        library_name="transformers" if whole else "peft",
        license=manifest.base_licence,
        model_name=manifest.name if scores else None,
        pipeline_tag="text-generation",
        tags=[*([] if whole else ["lora"]), "midalign", "multilingual"],
    )
    return f"---\n{data.to_yaml()}\n---"


def _summary(manifest: Manifest, whole: bool) -> str:
    base = code_span(manifest.base)
    kind = f"{base} with changed weights," if whole else f"A LoRA adapter for {base},"
    task = code_span(without_folders(manifest.task))
    if manifest.parents:
        names = " and ".join(code_span(parent.name) for parent in manifest.parents)
        how = manifest.arm.removeprefix("merged ")
        return f"{kind} merged by midalign from {names} ({escape_markdown(how)})."
    if manifest.layer is None or manifest.pairs is None:
        method = "without alignment"
    else:
        pairs = code_span(without_folders(manifest.pairs))
        method = f"aligned with English on pairs of {pairs} after block {manifest.layer}"
    return f"{kind} trained by midalign on {task}, {method}."


def _uses(manifest: Manifest) -> list[str]:
    """Return two lines on intended use and limits."""
    families = dict.fromkeys(
        harness.metadata(name)["family"] for text in _texts(manifest) for name in _tasks(text)
    )
    uses = (
        " and ".join(dict.fromkeys(USES.get(name, name) for name in families))
        or "the task that it was trained on"
    )
    uses = f"{uses}, with the prompt below, and research on cross-lingual transfer"
    if manifest.training_text and all(text.kind == "pairs" for text in manifest.training_text):
        uses = "merging with adapters of the same base that were trained on a task"
    return [
        f"**Intended use:** {uses}.  ",
        "**Limits:** Answers can be wrong in every language, more often in languages without task data. "
        "Other prompts and tasks, safety and bias were not tested.",
        "",
    ]


def _facts(manifest: Manifest) -> list[str]:
    losses = ", ".join(f"{name} {loss:.2f}" for name, loss in manifest.training.items())
    parents = [f"{_cell(p.described)}, adapter `{p.digest[:12]}`" for p in manifest.parents or []]
    return [
        "| | |",
        "| --- | --- |",
        f"| arm, seed | {_cell(manifest.arm)}, {manifest.seed} |",
        *(f"| merged from | {parent} |" for parent in parents),
        f"| supervised languages | {', '.join(manifest.supervised)} |",
        f"| aligned languages | {', '.join(manifest.aligned) if manifest.layer is not None else 'none'} |",
        *([f"| dtype of training | {manifest.dtype} |"] if manifest.dtype else []),
        f"| updates, tokens | {manifest.updates:,}, {manifest.tokens:,} |",
        f"| final losses | {losses or 'none'} |",
        f"| recipe | {_cell(manifest.recipe.name)}, digest `{manifest.recipe.digest[:12]}` |",
        f"| base, sha256 | `{manifest.base_digest[:12]}` |",
        f"| licence of the base | {_cell(manifest.base_licence or 'not known')} |",
        "",
    ]


def _data(manifest: Manifest) -> list[str]:
    """Return a table of the training text. Empty for older merged adapters, whose text is not known."""
    texts = _texts(manifest)
    if not texts:
        return []
    lines = ["## Training data", "", "| data | used as | languages | licence | sha256 |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for text in texts:
        used = "task" if text.kind == "task" else "sentence pairs"
        names = _data_sets(text)
        source = without_folders(text.source)
        shown = f"{source} ({', '.join(names)})" if names and names != [source] else source
        licences = dict.fromkeys(data_set(name).LICENCE for name in names)
        licence = "; ".join(licences) or "not known"
        digest = f"`{text.digest[:12]}`" if text.digest else ""
        lines.append(f"| {_cell(shown)} | {used} | {', '.join(text.languages)} | {licence} | {digest} |")
    return [*lines, ""]


def _cell(text: str) -> str:
    """Return foreign text for a cell of a table."""
    return escape_markdown(text).replace("|", "\\|")


def _texts(manifest: Manifest) -> list[TrainingText]:
    return list(manifest.training_text or [])


def _tasks(text: TrainingText) -> list[str]:
    """Return the tasks of a training text, none for tasks of lm-eval and for unavailable data."""
    if text.kind != "task" or harness.is_stock(text.source):
        return []
    try:
        return harness.training_tasks(text.source, text.languages)
    except MidalignError:
        return []


def _data_sets(text: TrainingText) -> list[str]:
    """Return the names of midalign's data sets that a training text comes from."""
    if text.kind == "pairs":
        names = [text.source]
    else:
        details = [harness.metadata(name) for name in _tasks(text)]
        names = [family(each["family"]).origin(each, "train") for each in details]
    return [name for name in dict.fromkeys(names) if name in DATA_SETS]


def _prompts(manifest: Manifest) -> list[str]:
    """Return the prompts of the tasks, with the fields of an item in braces."""
    lines = ["## Prompt", ""]
    stock = [text.source for text in _texts(manifest) if harness.is_stock(text.source)]
    lines += [f"The prompt of lm-eval's task {code_span(without_folders(name))}.\n" for name in stock]
    templates = dict.fromkeys(
        harness.prompt_template(name) for text in _texts(manifest) for name in _tasks(text)
    )
    for template in list(templates)[:SHOWN_PROMPTS]:
        lines += [code_block(template), ""]
    if not templates and not stock:
        lines += [
            f"Shown by `midalign-train RECIPE --dry-run` for {code_span(without_folders(manifest.task))}.",
            "",
        ]
    elif templates:
        lines += ["Double braces mark fields of an item.", ""]
    # Adapters are merged and scored with the prompt of the first.
    _, settings = next(iter(manifest.known_settings), ("", {}))
    if settings.get("chat_template"):
        lines += ["The prompt is the user message of the base's chat template.", ""]
    if instruction := settings.get("system_instruction"):
        lines += ["System instruction:", "", code_block(str(instruction)), ""]
    return lines


def _settings(manifest: Manifest) -> Iterator[str]:
    """Yield the hyperparameters: the recipe's keys as YAML, for each parent of a merged adapter."""
    if manifest.known_settings:
        yield from ("## Hyperparameters", "")
    for name, settings in manifest.known_settings:
        if manifest.parents:
            yield from (f"### {escape_markdown(name)}", "")
        yield from (code_block(yaml.safe_dump(settings, sort_keys=False), "yaml"), "")


def _scores(scored: record.Record) -> list[str]:
    """Return the lines of a record, with a table per set of metrics, as they differ between families."""
    sample = f"{scored.sample.limit} items per language" if scored.sample.limit else "all items"
    regime = scored.decoding.get("regime", "free")
    wording = f", wording {scored.wording} of the prompts" if scored.wording != 1 else ""
    lines = [
        f"## Scores on {scored.sample.split}, {sample}, {regime} decoding{wording}",
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
    sentences = [entry.portable().sentence for entry in scored.known_overlaps]
    lines = [f"Overlap with the training text: {escape_markdown(text)}.  " for text in sentences]
    if scored.overlap is not None:
        unchecked = map(without_folders, scored.overlap.unchecked)  # each text begins with a path or a name
        lines += [f"Overlap not checked: {escape_markdown(text)}.  " for text in unchecked]
    return [*lines, ""] if lines else []


def _code(manifest: Manifest, whole: bool) -> Iterator[str]:
    """Yield code that loads the model."""
    yield from ("## Use", "")
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if whole:
        code = [
            HERE,
            "tokenizer = AutoTokenizer.from_pretrained(adapter)",
            "model = AutoModelForCausalLM.from_pretrained(adapter)",
        ]
    else:
        imports = ["from peft import PeftModel", *imports]
        hub_id = base_on_hub(manifest)
        if hub_id is not None:
            base = f"base = {json.dumps(hub_id)}"
        elif manifest.base in NAMES:
            imports = ["from midalign import bases", *imports]
            base = f"base = bases.resolve({json.dumps(manifest.base)})"
        else:
            base = 'base = "PATH"  # your copy of the base'
            yield from (
                f"The base {code_span(manifest.base)} was a local folder. Set PATH to your copy. "
                f"`midalign eval` checks its digest, `{manifest.base_digest}`.",
                "",
            )
        code = [
            base,
            HERE,
            "tokenizer = AutoTokenizer.from_pretrained(base)",
            "model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)",
        ]
    yield from (code_block("\n".join([*imports, "", *code]), "python"), "")
