"""One evaluation: from a base, adapters and tasks to one record per model.

1. `make_plan` checks everything that can be known before weights are loaded.
2. `open_engine` loads the models and proves that each adapter acts.
3. `answer_tasks` keeps each finished task on disk, so that an interrupted evaluation resumes.
4. `publish_record` writes the records.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from midalign import locks
from midalign.evaluate.engine import measure_retrieval_alone, open_engine, quiet_libraries
from midalign.evaluate.gpu_memory import reported_out_of_memory
from midalign.evaluate.plan import EvalPlan, make_plan
from midalign.evaluate.publish import add_overlap, check_training_overlap, lacks_overlap, publish_record
from midalign.evaluate.scoring import answer_tasks, group_models, read_parts, score_by_comet
from midalign.evaluate.settings import EvalReporter, EvalSettings, EvaluatedModel
from midalign.reporting import ignore_progress


def evaluate_models(settings: EvalSettings, report: EvalReporter = ignore_progress) -> list[Path]:
    """Evaluate the base, if asked for, and each adapter on it; return the records' paths in this order.

    Finished languages are kept in `output/.partial` until all records are written. Raises MidalignError
    for unknown tasks or languages, adapters of another base or that do nothing, absent data or engines.
    """
    with quiet_libraries():
        plan = make_plan(settings)
        planned = [model for model in plan.models if not plan.is_finished(model)]
        with _locked_records(plan, planned):
            unfinished = _still_unfinished(plan, planned)
            unchecked = [
                model
                for model in plan.models
                if model in unfinished or lacks_overlap(plan.record_path(model))
            ]
            overlaps = check_training_overlap(unchecked, plan.base, plan.task_names, settings.split)
            with reported_out_of_memory():
                _answer_missing(plan, unfinished, report)
            parts = {model.name: read_parts(plan, model) for model in unfinished}
            if settings.comet is not None:
                from midalign.device import free_memory

                free_memory()
                score_by_comet(plan, parts, report)
            for model in unfinished:
                publish_record(plan, model, parts[model.name], overlaps[model.name])
            for model in planned:
                plan.stores[model.name].remove()
        for model in unchecked:
            if model not in unfinished:
                add_overlap(plan.record_path(model), overlaps[model.name])
        return [plan.record_path(model) for model in plan.models]


def answer_ahead(settings: EvalSettings, report: EvalReporter = ignore_progress) -> None:
    """Put the answers of the adapters, or of the base if there are none, into `output/.partial`.

    A later evaluation of more models finds them there. That evaluation measures retrieval, since the layer
    depends on all its models, checks the overlap and writes the records. Several processes may answer ahead
    at once for different models. Raises as `evaluate_models` does.
    """
    with quiet_libraries():
        plan = replace(make_plan(settings), retrieval_tasks=[])
        asked = [model for model in plan.models if model.folder is not None or not settings.adapters]
        planned = [model for model in asked if not plan.is_finished(model)]
        with _locked_records(plan, planned), reported_out_of_memory():
            _answer_missing(plan, _still_unfinished(plan, planned), report)


@contextmanager
def _locked_records(plan: EvalPlan, models: Sequence[EvaluatedModel]) -> Iterator[None]:
    """Hold the locks of the models' records, taken in one order so that no two processes block each other."""
    with ExitStack() as held:
        for path in sorted(map(plan.record_path, models)):
            held.enter_context(locks.locked(path))
        yield


def _still_unfinished(plan: EvalPlan, models: Sequence[EvaluatedModel]) -> list[EvaluatedModel]:
    """Return the models whose records another process has not written while this one waited for the locks."""
    plan.refuse_to_replace(models)
    return [model for model in models if not plan.is_finished(model)]


def _answer_missing(plan: EvalPlan, models: Sequence[EvaluatedModel], report: EvalReporter) -> None:
    """Put the parts that are missing into the stores. Nothing refers to the engine afterwards."""
    missing = {model.name: plan.missing_tasks(model) for model in models}
    if any(missing.values()):
        with open_engine(plan, models) as engine:
            for batch in group_models(models, missing, plan.settings.max_loras):
                answer_tasks(plan, batch, missing[batch[0].name], engine, report)
    elif plan.lacks_retrieval(models):
        measure_retrieval_alone(plan, models)
