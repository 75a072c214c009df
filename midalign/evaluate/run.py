"""From a base, adapters and tasks to one record a model, through lm-eval."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from midalign import bases, harness, locks, record
from midalign.evaluate.answer_limits import context_tokens, limit_answers
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.engine import _engine, _engine_for, _engine_name, _free_memory, _quiet
from midalign.evaluate.partial import PartStore
from midalign.evaluate.plan import (
    _check_prompting,
    _conditions,
    _configure,
    _is_finished,
    _missing,
    _models,
    _prove_constraints_compile,
    _run_digest,
    _samples,
    _store,
    _tokenizer,
)
from midalign.evaluate.publish import _add_overlap, _check_overlap, _lacks_overlap, _publish
from midalign.evaluate.retrieval import _retrieval_is_there
from midalign.evaluate.roles import _roles
from midalign.evaluate.scoring import _parts, _run, _score_by_comet
from midalign.evaluate.settings import EvalReporter, EvalSettings, EvaluatedModel, _record_path


def evaluate(settings: EvalSettings, report: EvalReporter) -> list[Path]:
    """Evaluate the base, if asked for, and each adapter on it; returns the records' paths in this order.

    Finished languages are kept in `output/.partial` until all records are written. Raises MidalignError
    for unknown tasks or languages, adapters of another base or that do nothing, absent data or engines.
    """
    with _quiet():
        return _evaluate_all(settings, report)


def answer_ahead(settings: EvalSettings, report: EvalReporter) -> None:
    """Put all languages of the adapters alone, or without adapters of the base, into `output/.partial`.

    For an evaluation of more models than these, which finds them there: it measures retrieval, at layers that
    depend on all its models, and writes the records. Several processes may do this at once for different
    models. Raises as `evaluate` does.
    """
    with _quiet():
        _evaluate_all(settings, report, ahead=True)


def _evaluate_all(settings: EvalSettings, report: EvalReporter, ahead: bool = False) -> list[Path]:
    names = harness.expand(settings.tasks, settings.split)
    scored_by = None
    if settings.comet is not None:  # whatever is wrong there is said before hours of generation
        comet.directions(settings.tasks, warn=True)
        scored_by = comet.check(settings.comet)
    engine = _engine_name(settings.engine)
    base = bases.resolve(settings.base)
    _check_prompting(settings, base)
    models = _models(settings, base)
    engine = _engine_for(settings, engine, models)
    roles = _roles(settings, models, names)
    tasks = harness.load(names)
    _configure(tasks, settings)
    limit_answers(tasks, _tokenizer(base), context_tokens(base))
    runs = {model.name: _run_digest(settings, base, engine, model, tasks) for model in models}
    conditions = {
        model.name: _conditions(settings, engine, model, tasks, scored_by, runs[model.name])
        for model in models
    }
    for model in models:
        record.refuse_to_replace(_record_path(settings, model), conditions[model.name])

    def is_finished(model: EvaluatedModel) -> bool:
        return _is_finished(settings, model, runs[model.name], roles[model.name])

    wanted = [model for model in models if not is_finished(model)]
    samples = _samples(tasks, settings)
    tasks = {name: tasks[name] for name in samples}
    if settings.constrained:
        _prove_constraints_compile(tasks)
    # One shard measures retrieval, and of all languages: it takes few sentences of each.
    measured = names if settings.shard is None or settings.shard[0] == 1 else []
    if ahead:
        measured = []
        wanted = [model for model in wanted if model.folder is not None or not settings.adapters]
    with _locks(settings, wanted):
        for model in wanted:  # which another process may have written since
            record.refuse_to_replace(_record_path(settings, model), conditions[model.name])
        unfinished = [model for model in wanted if not is_finished(model)]
        unchecked = (
            []  # the evaluation that writes the records checks them
            if ahead
            else [model for model in models if model in unfinished or _lacks_overlap(settings, model)]
        )
        checks = _check_overlap(unchecked, base, names, settings.split)
        stores = {model.name: _store(settings, base, engine, model) for model in wanted}
        if unfinished:
            _generate(engine, base, unfinished, stores, tasks, samples, measured, settings, report)
        if ahead:
            return []
        parts = {model.name: _parts(model, stores[model.name], list(tasks), measured) for model in unfinished}
        if settings.comet is not None:
            _free_memory()
            _score_by_comet(parts, tasks, settings, report)
        for model in unfinished:
            own = parts[model.name]
            run, check = runs[model.name], checks[model.name]
            _publish(settings, engine, model, stores[model.name], own, tasks, roles, run, check)
        for store in stores.values():
            store.remove()
    for model in unchecked:
        if model not in unfinished:
            _add_overlap(_record_path(settings, model), checks[model.name])
    return [_record_path(settings, model) for model in models]


@contextmanager
def _locks(settings: EvalSettings, models: Sequence[EvaluatedModel]) -> Iterator[None]:
    """Hold the locks of the models' records, taken in one order so that no two processes block each other."""
    with ExitStack() as held:
        for path in sorted(_record_path(settings, model) for model in models):
            held.enter_context(locks.locked(path))
        yield


def _generate(
    engine: str,
    base: str,
    models: Sequence[EvaluatedModel],
    stores: Mapping[str, PartStore],
    tasks: Mapping[str, Any],
    samples: Mapping[str, list[int] | None],
    measured: Sequence[str],
    settings: EvalSettings,
    report: EvalReporter,
) -> None:
    """Put all parts that are missing into the stores, and retrieval for the languages of `measured`; nothing
    refers to the engine afterwards."""
    missing = {model.name: _missing(stores[model.name], tasks, settings) for model in models}
    if any(missing.values()) or not _retrieval_is_there(stores, measured):
        with _engine(engine, base, models, stores, measured, settings) as lm:
            for model in models:
                if missing[model.name]:
                    lm.use(model.adapter)
                    own, store = missing[model.name], stores[model.name]
                    _run(lm, model, tasks, samples, own, store, settings, report)
