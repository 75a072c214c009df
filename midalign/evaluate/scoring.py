"""Answers of an engine, scored by lm-eval into finished parts, and COMET's scores of them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from midalign import guard, harness, record
from midalign.errors import TaskError
from midalign.evaluate import shards
from midalign.evaluate.answer_limits import task_limit
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.engine import InferenceEngine
from midalign.evaluate.outcome import rendering_digest
from midalign.evaluate.partial import Output, TaskPart
from midalign.evaluate.plan import EvalPlan
from midalign.evaluate.settings import EvalProgress, EvalReporter, EvaluatedModel
from midalign.families import family
from midalign.metrics import scorer


def answer_tasks(
    plan: EvalPlan,
    models: Sequence[EvaluatedModel],
    missing: Sequence[str],
    engine: InferenceEngine,
    report: EvalReporter,
) -> None:
    """Answer and score the tasks that all of `models` miss. Several adapters may answer in one batch.

    The parts of a call are kept once it is finished.
    """
    sizes = {name: len(plan.samples[name] or task.eval_docs) for name, task in plan.tasks.items()}
    finished = sum(size for name, size in sizes.items() if name not in missing)
    states = {model.name: EvalProgress(model.name, finished, sum(sizes.values())) for model in models}
    for state in states.values():
        report(state)

    def count_outputs(model: EvaluatedModel, count: int) -> None:
        state = states[model.name]
        states[model.name] = replace(state, done=state.done + count)
        report(states[model.name])

    adapters = [model.adapter for model in models if model.adapter is not None] if len(models) > 1 else []
    at_once = max(1, engine.items_at_once // len(models))
    for group in group_tasks({name: sizes[name] for name in missing}, at_once):
        parts = {}
        for model in models:
            engine.on_output = partial(count_outputs, model)
            engine.use(model.adapter, also=adapters)
            parts[model.name] = _call_harness(plan, group, engine)
        _share_seconds([part for model_parts in parts.values() for part in model_parts.values()])
        for model_name, model_parts in parts.items():
            for name, part in model_parts.items():
                plan.stores[model_name].write(name, part)
                headline = next(iter(part.result.metrics.values())).value
                cut_off = part.result.cut_off or 0
                report(replace(states[model_name], finished=name, headline=headline, cut_off=cut_off))


def group_tasks(sizes: Mapping[str, int], at_once: int) -> list[list[str]]:
    """Group consecutive tasks with at most `at_once` items together. A larger task is alone."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not groups or size > room:
            groups.append([])
            room = at_once
        groups[-1].append(name)
        room -= size
    return groups


def group_models(
    models: Sequence[EvaluatedModel], missing: Mapping[str, Sequence[str]], max_loras: int
) -> list[list[EvaluatedModel]]:
    """Group models that miss tasks: up to `max_loras` adapters that miss the same, and the base alone.

    vLLM without a GPU gives the base in a batch with adapters the last of them (bgmv_shrink in
    vllm/lora/ops/torch_ops/lora_ops.py), and without them it skips LoRA.
    """
    groups: list[list[EvaluatedModel]] = []
    for model in (model for model in models if missing[model.name]):
        group = groups[-1] if groups else []
        alike = all(other.folder and missing[other.name] == missing[model.name] for other in group)
        if group and model.folder and alike and len(group) < max_loras:
            group.append(model)
        else:
            groups.append([model])
    return groups


def _call_harness(plan: EvalPlan, names: Sequence[str], engine: InferenceEngine) -> dict[str, TaskPart]:
    """Call lm-eval once. Its bootstrap is off because the tasks' metrics have their own."""
    from lm_eval import evaluate as lm_evaluate

    settings = plan.settings
    start = time.monotonic()
    results = lm_evaluate(
        engine,
        {name: plan.tasks[name] for name in names},
        samples={name: plan.samples[name] for name in names},
        bootstrap_iters=0,
        log_samples=True,
        system_instruction=settings.system_instruction,
        apply_chat_template=settings.apply_chat_template,
        fewshot_as_multiturn=settings.apply_chat_template,
    )
    seconds = time.monotonic() - start
    return {name: _make_part(plan, name, engine, results, seconds / len(names)) for name in names}


def _share_seconds(parts: Sequence[TaskPart]) -> None:
    """Divide the seconds of parts by their tokens. Several tasks, and models, are answered at once."""
    seconds = sum(part.result.seconds for part in parts)
    tokens = sum(part.result.tokens or 0 for part in parts) or 1
    for part in parts:
        share = seconds * (part.result.tokens or 0) / tokens
        part.result = part.result.model_copy(update={"seconds": round(share, 3)})


def _count_tokens(engine: InferenceEngine, name: str) -> int:
    """Return the number of tokens of a task's prompts and outputs in the last call."""
    answers = (answer for (task, _), answer in engine.generated.items() if task == name)
    return sum(answer.prompt_tokens + answer.output_tokens for answer in answers)


def _make_part(plan: EvalPlan, name: str, engine: InferenceEngine, results: Any, seconds: float) -> TaskPart:
    """Return the finished part of one task, out of lm-eval's results and the engine's answers."""
    # 1. The items, as lm-eval logged them: counts, prompts, and which of them are in the training split.
    metadata, task = harness.metadata(name), plan.tasks[name]
    logged, scores = results["samples"][name], results["results"][name]
    task_family, task_scorer = family(metadata["family"]), scorer(metadata["family"])
    counts = np.array([item[task_scorer.HEADLINE].counts for item in logged], np.int64)
    prompts = [str(item["arguments"][0][0]) for item in logged]
    doc_ids = [item["doc_id"] for item in logged]
    repeated = sorted(set(guard.repeated_items(name, plan.settings.split)) & set(doc_ids))
    answers = [engine.generated[name, position] for position in range(len(logged))]
    # 2. The result, as the record will have it.
    result = record.TaskResult(
        language=metadata["language"],
        family=metadata["family"],
        version=metadata["version"],
        n=len(logged),
        counts={column: int(total) for column, total in zip(task_scorer.COLUMNS, counts.sum(0), strict=True)},
        metrics={
            metric: record.Metric(
                value=_defined(scores[f"{metric},none"]),
                stderr=_defined(scores[f"{metric}_stderr,none"]),
                n=len(logged),
            )
            for metric in task_family.metrics(metadata)
        },
        signatures=task_family.signatures(metadata),
        data_digest=task_family.data_digest(metadata, plan.settings.split),
        prompt_digest=shards.prompt_digest(prompts),
        repeated=len(repeated),
        without_repeated=record.scores_without_repeated(
            record.Items(np.array(doc_ids), counts, np.array(repeated)), task_family.metrics(metadata)
        ),
        max_gen_toks=task_limit(task),
        cut_off=sum(answer.finish == "length" for answer in answers),
        prompts_cut=sum(answer.prompt_cut for answer in answers),
        seconds=seconds,
        tokens=_count_tokens(engine, name),
    )
    # 3. Outputs, for those who want them: a file beside the record, COMET, or the merge of shards.
    outputs = None
    if plan.settings.keeps_outputs:
        outputs = [
            Output(
                doc_id=item["doc_id"],
                prompt=prompt,
                output=str(item["filtered_resps"][0]),
                finish=answer.finish,
            )
            for item, prompt, answer in zip(logged, prompts, answers, strict=True)
        ]
    return TaskPart(
        rendering=rendering_digest(name, task),
        result=result,
        doc_ids=doc_ids,
        counts=counts.tolist(),
        repeated=repeated,
        outputs=outputs,
    )


def _defined(value: Any) -> float | None:
    """Return a score as a record has it; None for NaN, and for N/A, which our plug-in puts in its place."""
    return record.nan_to_none(value) if isinstance(value, float) else None


def read_parts(plan: EvalPlan, model: EvaluatedModel) -> dict[str, TaskPart]:
    """Return all finished parts of a model. Raises TaskError if one of them is missing."""
    store = plan.stores[model.name]
    parts = {name: store.read(name, TaskPart) for name in plan.tasks}
    missing = [name for name, part in parts.items() if part is None]
    if plan.lacks_retrieval([model]):
        missing.append("retrieval")
    if missing:
        raise TaskError(
            f"{missing[0]} of {model.name} vanished from {store.folder}; run the same command again"
        )
    return {name: part for name, part in parts.items() if part is not None}


def score_by_comet(plan: EvalPlan, parts: Mapping[str, dict[str, TaskPart]], report: EvalReporter) -> None:
    """Add COMET's scores to the parts of all models.

    One process scores them all, so that equal outputs of two models are scored once.
    """
    comet_name = plan.settings.comet
    assert comet_name is not None
    segments = {}
    for name in (name for name in plan.comet_tasks if name in plan.tasks):
        docs = plan.tasks[name].eval_docs
        for model, model_parts in parts.items():
            outputs = model_parts[name].outputs or []
            segments[model, name] = [comet.comet_segment(docs[item.doc_id], item.output) for item in outputs]
    comet_model, scores = comet.score_segments(
        comet_name,
        [segment for task_segments in segments.values() for segment in task_segments],
        lambda done, total: report(EvalProgress(f"COMET {comet_name}", done, total)),
    )
    rest = iter(scores)
    for (model, name), task_segments in segments.items():
        part, task_scores = parts[model][name], list(islice(rest, len(task_segments)))
        part.result = part.result.model_copy(
            update={"comet": comet.pooled_comet_score(comet_model, task_scores)}
        )
        part.comet = task_scores
