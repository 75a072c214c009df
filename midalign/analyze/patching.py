"""Activation patching: which layer's state of the English prompt repairs the answer to its translation."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign import adapter as adapters
from midalign import bases, harness
from midalign.analyze.devices import DoneCallback
from midalign.errors import DataError
from midalign.files import write_atomically
from midalign.metrics.slot import NOTHING
from midalign.reporting import ignore_progress

if TYPE_CHECKING:
    from torch import Tensor

PIVOT = "en"
MEASURES = {
    "decision": "slots or none, share right",
    "label": "log-probability of the first label's first token",
}
FEWEST = 10
"""Fewest items per language."""


@dataclass(frozen=True)
class ParallelPrompt:
    """An item's prompt in English and in another language, whose right answers begin with the same token."""

    english: list[int]
    """Token ids."""
    foreign: list[int]
    answer: int
    """First token of the right answer."""
    has_slots: bool


@dataclass(frozen=True)
class PatchCurves:
    """One language's answers before patching, and by patched layer, means over items."""

    language: str
    items: int
    english: dict[str, float]
    """Measure -> value of the English prompt."""
    foreign: dict[str, float]
    patched: dict[str, np.ndarray]
    """Measure -> (layers,), with the English state of the same item after 0 to `depth` blocks."""
    unrelated: dict[str, np.ndarray]
    """The same with the English state of another item, the control."""


@dataclass(frozen=True)
class PatchAnalysis:
    """The result of patching one model."""

    model: str
    curves: list[PatchCurves]
    files: list[Path]
    """Table and plot."""


def analyze_patching(
    model: str,
    task: str,
    languages: Sequence[str],
    *,
    adapter: Path | None = None,
    count: int = 100,
    output: Path | None = None,
    on_language: DoneCallback = ignore_progress,
) -> PatchAnalysis:
    """Replace the state of a prompt's last token by that of the English prompt, one layer at a time.

    The prompt asks for the slots of an utterance of the validation split. Its translation has the same id. If
    a layer's English state repairs the answer, the blocks above read it rightly, so that alignment at this
    layer can help (compare arXiv 2504.09378). After the last block, the patched answer is the English one.

    Args:
        model: folder, hub id, or `mini`.
        task: a group of slot filling tasks, such as `midalign_slot`.
        languages: codes.
        adapter: folder of a peft adapter.
        count: items per language, a seeded sample.
        output: folder of the table and the plot. None for `analysis/MODEL` or `analysis/ADAPTER`.
        on_language: progress.

    Raises DataError for another family of tasks and for too few items, TaskError for an unknown task or
    language, AdapterError and BaseModelError.
    """
    import torch

    from midalign.align.trunk import depth
    from midalign.device import fast_dtype
    from midalign.evaluate import live

    if count < FEWEST:
        raise DataError(f"--count is {count}, expected at least {FEWEST}")
    source = bases.resolve(model)
    if adapter is not None:
        adapters.check_adapter(adapter, source)
    documents = _parallel_documents(harness.group_name(task), languages)
    loaded, tokenizer = live.load_with_adapters(source, {"adapter": adapter} if adapter else {}, fast_dtype())
    live.switch(loaded, "adapter" if adapter else None)
    curves = []
    on_language(0, len(documents))
    for language, pairs in documents.items():
        prompts = _parallel_prompts(pairs, tokenizer, count)
        if len(prompts) < FEWEST or not any(prompt.has_slots for prompt in prompts):
            raise DataError(
                f"{task}: {language} has {len(prompts)} items whose answers begin as the English ones do, "
                f"expected at least {FEWEST}, some with slots. Omit the language"
            )
        with torch.inference_mode():
            curves.append(_patch_language(loaded, language, prompts, _nothing(tokenizer), depth(loaded)))
        on_language(len(curves), len(documents))
    folder = output or Path("analysis") / (adapter.resolve() if adapter else Path(model)).name
    name = f"{Path(model).name}{f' with {adapter.resolve().name}' if adapter else ''}"
    return PatchAnalysis(name, curves, _write(folder, name, curves))


def _parallel_documents(
    group: str, languages: Sequence[str]
) -> dict[str, list[tuple[Any, dict[str, Any], Any, dict[str, Any]]]]:
    """Return (English task, document, task, document) of the same ids, by language."""
    names = harness.task_names(group, [PIVOT, *(code for code in languages if code != PIVOT)])
    if len(names) < 2:
        raise DataError(f"No language besides {PIVOT}. Name others: --languages de,sw")
    if harness.metadata(names[0])["family"] != "slot":
        raise DataError(f"{group} is not slot filling, and only its answers are patched. Name such a task")
    english, *others = harness.load_tasks(names).values()
    by_id = {document["id"]: document for document in english.validation_docs()}
    return {
        harness.task_languages(task.config.task)[0]: [
            (english, by_id[document["id"]], task, document)
            for document in task.validation_docs()
            if document["id"] in by_id
        ]
        for task in others
    }


def _parallel_prompts(
    pairs: Sequence[tuple[Any, dict[str, Any], Any, dict[str, Any]]], tokenizer: Any, count: int
) -> list[ParallelPrompt]:
    """Tokenize a seeded sample of the pairs whose answers begin with the same token in both languages."""
    from midalign.train.samples import SampleTokenizer

    tokens = SampleTokenizer(tokenizer, max_tokens=10**6)
    prompts: list[ParallelPrompt] = []
    for number in np.random.default_rng(0).permutation(len(pairs)):
        task, document, other, translated = pairs[number]
        sides = [
            tokens.sample(
                harness.prompt(side, entry), side.config.target_delimiter + side.doc_to_target(entry)
            )
            for side, entry in ((task, document), (other, translated))
        ]
        answers = {sample.target[0] for sample in sides}
        if len(answers) == 1:
            has_slots = other.doc_to_target(translated) != NOTHING
            prompts.append(ParallelPrompt(sides[0].prompt, sides[1].prompt, answers.pop(), has_slots))
        if len(prompts) == count:
            break
    return prompts


def _nothing(tokenizer: Any) -> int:
    """Return the first token of the answer that there are no slots."""
    ids: list[int] = tokenizer(f" {NOTHING}", add_special_tokens=False)["input_ids"]
    return ids[0]


def _patch_language(
    model: Any, language: str, prompts: Sequence[ParallelPrompt], nothing: int, depth: int
) -> PatchCurves:
    """Answer all prompts of a language unpatched and patched."""
    import torch

    from midalign.align.trunk import states_at_each

    states, before = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt.english], device=model.device)
        layers = states_at_each(model, {"input_ids": ids}, range(depth + 1), lambda state: state[0, -1])
        states.append(torch.stack(layers))
        before.append(measure_answers(_next_token(model, ids), prompt, nothing)[0])
    foreign: list[np.ndarray] = []
    patched: list[np.ndarray] = []
    unrelated: list[np.ndarray] = []
    for number, prompt in enumerate(prompts):
        ids = torch.tensor([prompt.foreign], device=model.device)
        foreign.append(measure_answers(_next_token(model, ids), prompt, nothing)[0])
        both = torch.cat([states[number], states[(number + 1) % len(prompts)]])
        rows = measure_answers(patched_next_token(model, ids, both), prompt, nothing)
        patched.append(rows[: depth + 1])
        unrelated.append(rows[depth + 1 :])
    return PatchCurves(
        language=language,
        items=len(prompts),
        english=_scalars(before),
        foreign=_scalars(foreign),
        patched=_means(patched),
        unrelated=_means(unrelated),
    )


def _next_token(model: Any, ids: "Tensor", cache: Any = None) -> "Tensor":
    """Return the log-probabilities of the token after the prompts, (prompts, vocabulary) fp32.

    `cache` has the keys and values of the tokens before `ids`.
    """
    logits: Tensor = model(
        input_ids=ids, past_key_values=cache, use_cache=cache is not None, logits_to_keep=1
    ).logits[:, -1]
    return logits.float().log_softmax(-1)


def patched_next_token(model: Any, ids: "Tensor", states: "Tensor") -> "Tensor":
    """Return the log-probabilities of the next token, with the last token's state replaced at one layer.

    Only the last token runs once per row: the tokens before it are computed once, since they do not see it.

    Args:
        model: decoder.
        ids: a prompt, (1, tokens).
        states: residual stream after 0 to `depth` blocks, of one prompt or of several after each other,
            (rows, hidden). Row k is patched with state k after k modulo (depth + 1) blocks.

    Returns:
        (rows, vocabulary) fp32.
    """
    from midalign.align.trunk import decoder_blocks

    blocks = decoder_blocks(model)

    def replace(layer: int, hidden: "Tensor") -> "Tensor":
        hidden = hidden.clone()
        hidden[layer :: len(blocks) + 1, -1] = states[layer :: len(blocks) + 1]
        return hidden

    def before_first(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (replace(0, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": replace(0, kwargs["hidden_states"])}

    def after(layer: int) -> Any:
        def change(_: Any, __: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (replace(layer, output[0]), *output[1:])
            return replace(layer, output)

        return change

    cache = model(input_ids=ids[:, :-1], use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_repeat_interleave(len(states))
    hooks = [blocks[0].register_forward_pre_hook(before_first, with_kwargs=True)]
    hooks += [block.register_forward_hook(after(layer)) for layer, block in enumerate(blocks, start=1)]
    try:
        return _next_token(model, ids[:, -1:].expand(len(states), -1), cache)
    finally:
        for hook in hooks:
            hook.remove()


def measure_answers(log_probabilities: "Tensor", prompt: ParallelPrompt, nothing: int) -> np.ndarray:
    """Return the measures of an item's answers, (rows, measures), NaN where a measure has no case.

    Args:
        log_probabilities: of the token after the prompt, (rows, vocabulary).
        prompt: the item.
        nothing: first token of the answer that there are no slots.
    """
    says_nothing = log_probabilities.argmax(-1) == nothing
    decision = (says_nothing != prompt.has_slots).double()
    label = log_probabilities[:, prompt.answer].double()
    columns = [
        decision.cpu().numpy(),
        label.cpu().numpy() if prompt.has_slots else np.full(len(label), np.nan),
    ]
    return np.stack(columns, axis=-1)


def _means(rows: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the means over items by measure. Items without a case do not count."""
    means = np.nanmean(np.stack(rows), axis=0)
    return {name: means[..., column] for column, name in enumerate(MEASURES)}


def _scalars(rows: Sequence[np.ndarray]) -> dict[str, float]:
    """Return `_means` of items with one row."""
    return {name: float(value) for name, value in _means(rows).items()}


def _write(folder: Path, model: str, curves: Sequence[PatchCurves]) -> list[Path]:
    """Write `patching.csv` and `patching.png`."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["language", "items", "measure", "layer", "patched", "unrelated", "foreign", "english"])
    for curve in curves:
        for measure in MEASURES:
            for layer, value in enumerate(curve.patched[measure]):
                figures = (
                    value,
                    curve.unrelated[measure][layer],
                    curve.foreign[measure],
                    curve.english[measure],
                )
                rows.writerow(
                    [curve.language, curve.items, measure, layer, *(f"{figure:.6f}" for figure in figures)]
                )
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"patching.csv": text.getvalue().encode(), "patching.png": plot_patching(model, curves)}
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def plot_patching(model: str, curves: Sequence[PatchCurves]) -> bytes:
    """Plot the measures by patched layer: a line per language, their mean, and the control, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from midalign.leaderboard.plots import COLOURS, GREY, plot_style

    with plot_style():
        figure, panels = plt.subplots(1, len(MEASURES), figsize=(10, 4.2), layout="constrained")
        for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
            layers = range(len(curves[0].patched[measure]))
            for curve in curves:
                axes.plot(layers, curve.patched[measure], color=COLOURS[0], alpha=0.25, linewidth=1)
            levels = (
                ("English state of the same item", COLOURS[0], "-", [c.patched[measure] for c in curves]),
                ("English state of another item", COLOURS[1], "-", [c.unrelated[measure] for c in curves]),
                ("not patched", GREY, "--", [np.full(len(layers), c.foreign[measure]) for c in curves]),
                ("English prompt", "black", ":", [np.full(len(layers), c.english[measure]) for c in curves]),
            )
            for label, colour, style, values in levels:
                axes.plot(
                    layers, np.mean(values, axis=0), color=colour, linestyle=style, linewidth=2, label=label
                )
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("blocks below the patched state")
        figure.suptitle(f"{model}: mean over {', '.join(curve.language for curve in curves)}", fontsize=11)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
        plt.close(figure)
    return buffer.getvalue()
