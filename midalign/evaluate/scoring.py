"""From calls of lm-eval to finished parts, and COMET's scores of them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from midalign import guard, harness, record
from midalign.errors import TaskError
from midalign.evaluate import shards
from midalign.evaluate.answer_limits import _limit
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.partial import Output, PartStore, TaskPart
from midalign.evaluate.plan import _rendering
from midalign.evaluate.retrieval import _source_and_languages
from midalign.evaluate.settings import EvalProgress, EvalReporter, EvalSettings, EvaluatedModel
from midalign.families import family
from midalign.metrics import scorer


def _run(
    lm: Any,
    model: EvaluatedModel,
    tasks: Mapping[str, Any],
    samples: Mapping[str, list[int] | None],
    missing: Sequence[str],
    store: PartStore,
    settings: EvalSettings,
    report: EvalReporter,
) -> None:
    """Answer and score the missing tasks of one model, keeping those of a call as soon as it is finished."""
    sizes = {name: len(samples[name] or tasks[name].eval_docs) for name in tasks}
    state = EvalProgress(
        model.name, sum(sizes[name] for name in tasks if name not in missing), sum(sizes.values())
    )
    report(state)

    def on_output(count: int) -> None:
        nonlocal state
        state = replace(state, done=state.done + count, finished=None, headline=None, cut_off=0)
        report(state)

    lm.on_output = on_output
    for group in groups({name: sizes[name] for name in missing}, lm.items_at_once):
        parts = _ask(lm, {name: tasks[name] for name in group}, samples, settings)
        for name, part in parts.items():
            store.write(name, part)
            headline = next(iter(part.result.metrics.values())).value
            cut_off = part.result.cut_off or 0
            report(replace(state, finished=name, headline=headline, cut_off=cut_off))


def groups(sizes: Mapping[str, int], at_once: int) -> list[list[str]]:
    """Group consecutive tasks with at most `at_once` items together. A larger task is alone."""
    found: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not found or size > room:
            found.append([])
            room = at_once
        found[-1].append(name)
        room -= size
    return found


def _ask(
    lm: Any, tasks: Mapping[str, Any], samples: Mapping[str, list[int] | None], settings: EvalSettings
) -> dict[str, TaskPart]:
    """Call lm-eval once. Its bootstrap is off because the tasks' metrics have their own."""
    from lm_eval import evaluate as lm_evaluate

    start = time.monotonic()
    results = lm_evaluate(
        lm,
        dict(tasks),
        samples={name: samples[name] for name in tasks},
        bootstrap_iters=0,
        log_samples=True,
        system_instruction=settings.system_instruction,
        apply_chat_template=settings.apply_chat_template,
        fewshot_as_multiturn=settings.apply_chat_template,
    )
    seconds = time.monotonic() - start
    total = sum(_tokens(lm, name) for name in tasks) or 1
    return {
        name: _part(lm, name, task, results, seconds * _tokens(lm, name) / total, settings)
        for name, task in tasks.items()
    }


def _tokens(lm: Any, name: str) -> int:
    return sum(
        one.prompt_tokens + one.output_tokens for (task, _), one in lm.generated.items() if task == name
    )


def _part(lm: Any, name: str, task: Any, results: Any, seconds: float, settings: EvalSettings) -> TaskPart:
    metadata = harness.metadata(name)
    logged = results["samples"][name]
    scores = results["results"][name]
    tasks, scored = family(metadata["family"]), scorer(metadata["family"])
    counts = np.array([one[scored.HEADLINE].counts for one in logged], np.int64)
    prompts = [str(one["arguments"][0][0]) for one in logged]
    doc_ids = [one["doc_id"] for one in logged]
    repeated = sorted(set(guard.repeated_items(name, settings.split)) & set(doc_ids))
    generated = [lm.generated[name, position] for position in range(len(logged))]
    result = record.TaskResult(
        language=metadata["language"],
        family=metadata["family"],
        version=metadata["version"],
        n=len(logged),
        counts={column: int(total) for column, total in zip(scored.COLUMNS, counts.sum(0), strict=True)},
        metrics={
            metric: record.Metric(
                value=_defined(scores[f"{metric},none"]),
                stderr=_defined(scores[f"{metric}_stderr,none"]),
                n=len(logged),
            )
            for metric in tasks.metrics(metadata)
        },
        signatures=tasks.signatures(metadata),
        data_digest=tasks.data_digest(metadata, settings.split),
        prompt_digest=shards.prompt_digest(prompts),
        repeated=len(repeated),
        without_repeated=record.without_repeated(
            record.Items(np.array(doc_ids), counts, np.array(repeated)), tasks.metrics(metadata)
        ),
        max_gen_toks=_limit(task),
        cut_off=sum(one.finish == "length" for one in generated),
        prompts_cut=sum(one.prompt_cut for one in generated),
        seconds=round(seconds, 3),
        tokens=_tokens(lm, name),
    )
    outputs = [
        Output(doc_id=one["doc_id"], prompt=prompt, output=str(one["filtered_resps"][0]), finish=own.finish)
        for one, prompt, own in zip(logged, prompts, generated, strict=True)
    ]
    return TaskPart(
        rendering=_rendering(name, task),
        result=result,
        doc_ids=doc_ids,
        counts=counts.tolist(),
        repeated=repeated,
        outputs=outputs if settings.keeps_outputs else None,
    )


def _defined(value: Any) -> float | None:
    """Return a score as a record has it; None for NaN, and for N/A, which our plug-in puts in its place."""
    return record.defined(value) if isinstance(value, float) else None


def _parts(
    model: EvaluatedModel, store: PartStore, names: Sequence[str], measured: Sequence[str]
) -> dict[str, TaskPart]:
    """Return all finished parts of a model; raises TaskError where one of them is missing."""
    parts = {name: store.read(name, TaskPart) for name in names}
    missing = [name for name, part in parts.items() if part is None]
    if _source_and_languages(measured)[1] and store.read("retrieval", record.Retrieval) is None:
        missing.append("retrieval")
    if missing:
        raise TaskError(
            f"{missing[0]} of {model.name} vanished from {store.folder}; run the same command again"
        )
    return {name: part for name, part in parts.items() if part is not None}


def _score_by_comet(
    parts: Mapping[str, dict[str, TaskPart]],
    tasks: Mapping[str, Any],
    settings: EvalSettings,
    report: EvalReporter,
) -> None:
    """Add COMET's scores to the parts of all models.

    One process scores them all, so that equal outputs of two models are scored once.
    """
    assert settings.comet is not None
    segments = {}
    for name in (name for name in comet.directions(settings.tasks) if name in tasks):
        docs = tasks[name].eval_docs
        for model, own in parts.items():
            outputs = own[name].outputs or []
            segments[model, name] = [comet.segment(docs[one.doc_id], one.output) for one in outputs]
    scored_by, scores = comet.score(
        settings.comet,
        [segment for some in segments.values() for segment in some],
        lambda done, total: report(EvalProgress(f"COMET {settings.comet}", done, total)),
    )
    rest = iter(scores)
    for (model, name), some in segments.items():
        own_scores = list(islice(rest, len(some)))
        part = parts[model][name]
        part.result = part.result.model_copy(update={"comet": comet.pooled(scored_by, own_scores)})
        part.comet = own_scores
