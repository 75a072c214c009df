"""The plan of an evaluation: models, tasks and items, checked before any weights are loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midalign import adapter as adapters
from midalign import bases, chat, harness, record
from midalign.errors import AdapterError, EngineError, RecordError, TaskError
from midalign.evaluate import constrain, shards, tokenizers
from midalign.evaluate.answer_limits import context_tokens, limit_answers
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.engine import check_engine, choose_engine
from midalign.evaluate.outcome import (
    base_tokenizer,
    deciding_settings,
    planned_conditions,
    rendering_digest,
    run_digest,
)
from midalign.evaluate.partial import PartStore, TaskPart
from midalign.evaluate.retrieval import source_and_languages
from midalign.evaluate.roles import assign_roles
from midalign.evaluate.settings import (
    SEED,
    EvalSettings,
    EvaluatedModel,
    base_name,
    record_name,
    record_path,
)
from midalign.evaluate.thoughts import Thinking
from midalign.evaluate.wordings import reword_prompts

FEWSHOT_SEED = 1234
"""lm-eval's default, which `lm_eval.simple_evaluate` sets on every task."""


@dataclass(frozen=True)
class EvalPlan:
    """Everything that one evaluation will do."""

    settings: EvalSettings
    base: str
    """Folder or hub id of the base."""
    engine: str
    models: list[EvaluatedModel]
    task_names: list[str]
    """All tasks of the run, also those of which this shard has no item."""
    tasks: dict[str, Any]
    """lm-eval's task objects, by name, of the tasks of which this shard has an item."""
    samples: dict[str, list[int] | None]
    """Positions of the items by task; None is all of them."""
    comet_tasks: list[str]
    """Tasks that COMET scores."""
    retrieval_tasks: list[str]
    """Tasks for whose languages pair retrieval is measured."""
    roles: dict[str, record.Roles]
    """Roles of languages by model."""
    run_digests: dict[str, str]
    """Digest of the whole run by model, equal for all shards."""
    conditions: dict[str, record.Conditions]
    """Conditions of the planned records by model."""
    stores: dict[str, PartStore]
    """Finished parts by model."""

    def record_path(self, model: EvaluatedModel) -> Path:
        """Return the path of a model's record."""
        return record_path(self.settings, model)

    def refuse_to_replace(self, models: Sequence[EvaluatedModel]) -> None:
        """Raise RecordError for an existing record that the planned one may not replace."""
        for model in models:
            record.refuse_to_replace(self.record_path(model), self.conditions[model.name])

    def is_finished(self, model: EvaluatedModel) -> bool:
        """Return whether an up-to-date record of the model exists.

        The base takes its roles from any adapter, so those do not count if there are adapters.
        """
        path = self.record_path(model)
        if self.settings.log_samples or not path.is_file():
            return False
        entry = record.read_record(path)
        manifest = entry.adapter.manifest if entry.adapter else None
        any_roles = model.folder is None and bool(self.settings.adapters)
        return (
            entry.run == self.run_digests[model.name]
            and entry.packages == adapters.package_versions()
            and entry.base.note == self.settings.note
            and entry.trained_on == model.declared_training(self.settings)
            and manifest == model.manifest
            and (any_roles or entry.roles == self.roles[model.name])
            and _has_items(path)
        )

    def missing_tasks(self, model: EvaluatedModel) -> list[str]:
        """Return the tasks without a finished part of the model that is still valid."""
        missing = []
        for name, task in self.tasks.items():
            part = self.stores[model.name].read(name, TaskPart)
            stale = part is None or part.rendering != rendering_digest(name, task)
            if stale or (self.settings.keeps_outputs and part is not None and part.outputs is None):
                missing.append(name)
        return missing

    def lacks_retrieval(self, models: Sequence[EvaluatedModel]) -> bool:
        """Return whether the retrieval of one of the models has still to be measured."""
        _, languages = source_and_languages(self.retrieval_tasks)
        parts = [self.stores[model.name].read("retrieval", record.Retrieval) for model in models]
        return bool(languages) and any(part is None or list(part.accuracy) != languages for part in parts)


def make_plan(settings: EvalSettings) -> EvalPlan:
    """Return the plan of an evaluation.

    Raises MidalignError for everything that can be known before weights are loaded: unknown tasks or
    languages, adapters of another base, absent data or engines, existing records of another evaluation.
    """
    # 1. Tasks and COMET: an error of theirs would otherwise show after hours of generation.
    task_names = harness.expand(settings.tasks, settings.split)
    comet_model, comet_tasks = None, []
    if settings.comet is not None:
        comet_tasks = comet.comet_directions(settings.tasks, warn=True)
        comet_model = comet.check_comet_model(settings.comet)
    # 2. The base, its adapters, and an engine that serves them.
    check_engine(settings)
    base = bases.resolve(settings.base)
    _check_prompting(settings, base)
    models = _check_models(settings, base)
    engine = choose_engine(settings, base, models)
    roles = assign_roles(settings, models, task_names)
    # 3. Task objects as this evaluation needs them, and what decides the outcome of the run.
    tasks = harness.load_tasks(task_names)
    configure_tasks(tasks, settings)
    limit_answers(tasks, base_tokenizer(base), context_tokens(base))
    run_digests = {model.name: run_digest(settings, base, engine, model, tasks) for model in models}
    conditions = {
        model.name: planned_conditions(
            settings, engine, model, tasks, comet_model, comet_tasks, run_digests[model.name]
        )
        for model in models
    }
    # 4. The items of this shard. Retrieval takes few sentences per language, so one shard measures it.
    samples = _draw_samples(tasks, settings)
    plan = EvalPlan(
        settings=settings,
        base=base,
        engine=engine,
        models=models,
        task_names=task_names,
        tasks={name: tasks[name] for name in samples},
        samples=samples,
        comet_tasks=comet_tasks,
        retrieval_tasks=task_names if settings.shard is None or settings.shard[0] == 1 else [],
        roles=roles,
        run_digests=run_digests,
        conditions=conditions,
        stores={model.name: _part_store(settings, base, engine, model) for model in models},
    )
    plan.refuse_to_replace(models)
    if settings.constrained:
        _prove_constraints_compile(plan.tasks)
    return plan


def _check_prompting(settings: EvalSettings, base: str) -> None:
    """Raise MidalignError if the base cannot be prompted as the settings say."""
    Thinking.of(settings.think_end_token, settings.max_thinking_tokens, settings.enable_thinking)
    if settings.apply_chat_template:
        chat.require_template(base_tokenizer(base), settings.base)
    elif settings.enable_thinking is not None:
        raise EngineError(
            "--enable-thinking and --no-enable-thinking are passed to the chat template: add "
            "--apply-chat-template"
        )


def _check_models(settings: EvalSettings, base: str) -> list[EvaluatedModel]:
    """Return the base and the adapters in their order, each adapter checked against the base."""
    if settings.adapters_only and not settings.adapters:
        raise AdapterError("There is no adapter to score without its base: --adapter FOLDER")
    models = [EvaluatedModel(record.record_file_name(base_name(settings.base)), None, None, None)]
    for folder in settings.adapters:
        adapters.check_adapter(folder, base)
        tokenizers.check_tokenizer(folder, base, chat=settings.apply_chat_template)
        manifest = adapters.read_manifest(folder)
        name = record.record_file_name(manifest.name if manifest else folder.resolve().name)
        # Some file systems do not tell upper from lower case.
        clash = next((model for model in models if model.name.casefold() == name.casefold()), None)
        if clash:
            raise AdapterError(
                f"Two models would write {name}.json: {clash.folder or settings.base} and {folder}. Rename "
                f"one of the folders, or give each once"
            )
        models.append(EvaluatedModel(name, folder, adapters.adapter_digest(folder), manifest))
    return models[1:] if settings.adapters_only else models


def configure_tasks(tasks: Mapping[str, Any], settings: EvalSettings) -> None:
    """Set the split, and what `lm_eval.simple_evaluate` sets on tasks before it calls `evaluate`.

    Raises TaskError for a task with fewer few-shot examples than the settings ask for, and for one without
    the wording.
    """
    reword_prompts(tasks, settings.wording)
    for name, task in tasks.items():
        shots = len(task.sampler.df)
        if settings.num_fewshot > shots:
            raise TaskError(
                f"{name} has {shots} few-shot examples here, {settings.num_fewshot} are wanted. "
                f"Those of translation are ALMA's, where it has the direction: midalign data add alma PATH"
            )
        task.set_config(key="test_split", value=settings.split)
        task.fewshot_cfg.split = settings.split  # no item sees its own text among the examples
        task.set_config(key="num_fewshot", value=settings.num_fewshot)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)


def _draw_samples(tasks: Mapping[str, Any], settings: EvalSettings) -> dict[str, list[int] | None]:
    """Return the items to answer by task, None for all of them. A shard lacks the tasks without an item."""
    samples = {name: draw_sample(len(task.eval_docs), settings.limit) for name, task in tasks.items()}
    if settings.shard is None:
        return samples
    positions = {name: sample or range(len(tasks[name].eval_docs)) for name, sample in samples.items()}
    in_shard = shards.shard_items(positions, *settings.shard)
    if not in_shard:
        total = sum(map(len, positions.values()))
        raise TaskError(f"{settings.shard[1]} shards of {total} items leave some empty; take fewer shards")
    return dict(in_shard)


def draw_sample(size: int, limit: int | None, seed: int = SEED) -> list[int] | None:
    """Return sorted positions of a seeded sample, the same for every task of equal size; None is all of them.

    A smaller limit gives a part of a larger one's sample.
    """
    if limit is None or limit >= size:
        return None
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(size)[:limit])


def _part_store(settings: EvalSettings, base: str, engine: str, model: EvaluatedModel) -> PartStore:
    """Return the store of the model's finished parts. A record of another name has a store of its own."""
    decides = deciding_settings(settings, base, engine, model)
    return PartStore(settings.output, {**decides, "record": record_name(settings, model)})


def _prove_constraints_compile(tasks: Mapping[str, Any]) -> None:
    """Raise TaskError for a task without a constraint, or with one that does not compile."""
    for name, task in tasks.items():
        constrain.output_grammar(name, task.eval_docs[0], task.config.generation_kwargs["until"])


def _has_items(path: Path) -> bool:
    """Return whether the record's items file exists and is the one that the record was written with."""
    try:
        record.read_items(path)
    except RecordError:
        return False
    return True
