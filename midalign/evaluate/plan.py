"""What an evaluation will do: its models, tasks and items, and all that decides its outcome."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from midalign import adapter as adapters
from midalign import bases, chat, harness, record
from midalign.errors import AdapterError, EngineError, RecordError, TaskError
from midalign.evaluate import constrain, generation, retrieval, shards, tokenizers
from midalign.evaluate.answer_limits import _limit
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.partial import PartStore, TaskPart
from midalign.evaluate.settings import (
    SEED,
    EvalSettings,
    EvaluatedModel,
    _base_name,
    _record_name,
    _record_path,
)
from midalign.evaluate.thoughts import Thinking
from midalign.families import family


def _check_prompting(settings: EvalSettings, base: str) -> None:
    """Raise MidalignError, before anything is loaded, where the base cannot be prompted as asked."""
    Thinking.of(settings.think_end_token, settings.max_thinking_tokens, settings.enable_thinking)
    if settings.apply_chat_template:
        chat.require_template(_tokenizer(base), settings.base)
    elif settings.enable_thinking is not None:
        raise EngineError(
            "--enable-thinking and --no-enable-thinking are passed to the chat template: add "
            "--apply-chat-template"
        )


@cache
def _tokenizer(base: str) -> Any:
    return tokenizers.load(str(adapters.base_folder(base)))


def _prompting(settings: EvalSettings, base: str) -> dict[str, Any]:
    """Return what else decides prompts and answers, by the names of the record; only what is not usual."""
    found: dict[str, Any] = {}
    if settings.think_end_token is not None:
        found["think_end_token"] = settings.think_end_token
        found["max_thinking_tokens"] = settings.max_thinking_tokens
    if settings.enable_thinking is not None:
        found["enable_thinking"] = settings.enable_thinking
    if settings.apply_chat_template and not chat.has_system_role(_tokenizer(base)):
        found["system_turn"] = chat.MERGED
    return found


def _models(settings: EvalSettings, base: str) -> list[EvaluatedModel]:
    """Return the base, then the adapters, each checked against the base before anything is loaded."""
    if settings.adapters_only and not settings.adapters:
        raise AdapterError("There is no adapter to score without its base: --adapter FOLDER")
    models = [EvaluatedModel(record.file_name(_base_name(settings.base)), None, None, None)]
    for folder in settings.adapters:
        adapters.check(folder, base)
        tokenizers.check(folder, base, chat=settings.apply_chat_template)
        manifest = adapters.read_manifest(folder)
        name = record.file_name(manifest.name if manifest else folder.resolve().name)
        # Some file systems do not tell upper from lower case.
        clash = next((model for model in models if model.name.casefold() == name.casefold()), None)
        if clash:
            raise AdapterError(
                f"Two models would write {name}.json: {clash.folder or settings.base} and {folder}. Rename "
                f"one of the folders, or give each once"
            )
        models.append(EvaluatedModel(name, folder, adapters.digest(folder), manifest))
    return models[1:] if settings.adapters_only else models


def _conditions(
    settings: EvalSettings,
    engine: str,
    model: EvaluatedModel,
    asked: Mapping[str, Any],
    scored_by: comet.CometModel | None,
    run: str,
) -> record.Conditions:
    """Return the conditions that the model's record will have, as far as they are known beforehand."""
    shared = record.shared_conditions(
        _record_base(settings),
        model.digest,
        _record_engine(engine),
        _record_sample(settings),
        _decoding(settings),
    )
    if settings.shard:
        shared[record.SHARDS] = run
    by_comet = f"{scored_by.digest} {scored_by.version}" if scored_by else None
    directions = set(comet.directions(settings.tasks)) if scored_by else set()
    tasks = {}
    for name, task in asked.items():
        metadata = harness.metadata(name)
        own = family(metadata["family"])
        tasks[name] = record.task_conditions(
            metadata["version"],
            own.data_digest(metadata, settings.split),
            own.signatures(metadata),
            _limit(task),
            by_comet if name in directions else None,
        )
    return record.Conditions(shared, tasks, bool(retrieval._source_and_languages(list(asked))[1]))


def _record_base(settings: EvalSettings) -> record.Base:
    base = bases.resolve(settings.base)
    return record.Base(
        name=_base_name(settings.base),
        digest=adapters.base_digest(base),
        tokenizer=adapters.tokenizer_digest(base),
        note=settings.note,
    )


def _record_engine(engine: str) -> record.Engine:
    from midalign.device import device, fast_dtype

    return record.Engine(name=engine, dtype=fast_dtype(), device=device())


def _record_sample(settings: EvalSettings) -> record.Sample:
    return record.Sample(split=settings.split, limit=settings.limit, seed=SEED)


def _decoding(settings: EvalSettings) -> dict[str, Any]:
    """Return how outputs are prompted and decoded, apart from the tasks' own generation settings.

    Unusual keys are present where they act.
    """
    base = bases.resolve(settings.base)
    ignored = generation.acting(generation.of_base(base))
    return {
        "regime": settings.regime,
        "num_fewshot": settings.num_fewshot,
        "apply_chat_template": settings.apply_chat_template,
        "system_instruction": settings.system_instruction,
        **_prompting(settings, base),
        **({"generation_config_ignored": ignored} if ignored else {}),
    }


def _is_finished(settings: EvalSettings, model: EvaluatedModel, run: str, roles: record.Roles) -> bool:
    """Return whether an up-to-date record exists. The base takes its roles from any adapter."""
    path = _record_path(settings, model)
    if settings.log_samples or not path.is_file():
        return False
    entry = record.read(path)
    any_roles = model.folder is None and bool(settings.adapters)
    manifest = entry.adapter.manifest if entry.adapter else None
    said = (entry.packages, entry.base.note, manifest, any_roles or entry.roles)
    now = (adapters.package_versions(), settings.note, model.manifest, any_roles or roles)
    return entry.run == run and said == now and _has_items(path)


def _has_items(path: Path) -> bool:
    """Return whether the record's counts per item are there as they were written."""
    try:
        record.read_items(path)
    except RecordError:
        return False
    return True


def _decides(settings: EvalSettings, base: str, engine: str, model: EvaluatedModel) -> dict[str, Any]:
    """Return all that decides what a model's tasks give, apart from the tasks themselves."""
    from midalign.device import fast_dtype

    pooling = retrieval.pooling(_tokenizer(base), adapters.base_config(base).get_text_config())
    return {
        "base": adapters.base_digest(base),
        "tokenizer": adapters.tokenizer_digest(base),
        "adapter": model.digest,
        "engine": engine,
        "dtype": fast_dtype(),
        "split": settings.split,
        "limit": settings.limit,
        "shard": settings.shard,
        "seed": SEED,
        "regime": settings.regime,
        "prompt": [settings.num_fewshot, settings.apply_chat_template, settings.system_instruction],
        "packages": adapters.package_versions(),
        **_prompting(settings, base),
        **({"shots": "of other texts"} if settings.num_fewshot else {}),
        **({"pooling": pooling} if pooling != retrieval.POOLING else {}),
    }


def _run_digest(
    settings: EvalSettings, base: str, engine: str, model: EvaluatedModel, tasks: Mapping[str, Any]
) -> str:
    """Return the digest of what determines the outcome of the whole run, of which this may be a shard.

    Package versions do not count.
    """
    decides = _decides(replace(settings, shard=None), base, engine, model)
    del decides["packages"]  # the record has them
    asked = {name: _rendering(name, task) for name, task in tasks.items()}
    text = json.dumps([decides, asked, settings.comet], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _rendering(name: str, task: Any) -> str:
    """Return the digest of what a task asks, how, of whom, and how the answers are scored."""
    metadata = harness.metadata(name)
    keys = ("description", "doc_to_text", "doc_to_target", "target_delimiter", "generation_kwargs")
    asked = {key: str(task.config[key]) for key in keys}
    own = family(metadata["family"])
    scored = [metadata["version"], own.data_digest(metadata, task.config.test_split)]
    if signatures := own.signatures(metadata):
        scored.append(signatures)
    return hashlib.sha256(json.dumps([asked, *scored], sort_keys=True).encode()).hexdigest()


def _samples(tasks: Mapping[str, Any], settings: EvalSettings) -> dict[str, list[int] | None]:
    """Return the items to answer by task, None for all of them. A shard lacks the tasks without an item."""
    samples = {name: sample(len(task.eval_docs), settings.limit) for name, task in tasks.items()}
    if settings.shard is None:
        return samples
    positions = {name: one or range(len(tasks[name].eval_docs)) for name, one in samples.items()}
    own = shards.share(positions, *settings.shard)
    if not own:
        total = sum(map(len, positions.values()))
        raise TaskError(f"{settings.shard[1]} shards of {total} items leave some empty; take fewer shards")
    return dict(own)


def sample(size: int, limit: int | None, seed: int = SEED) -> list[int] | None:
    """Return sorted positions of a seeded sample, the same for every task of equal size; None is all of them.

    A smaller limit gives a part of a larger one's sample.
    """
    if limit is None or limit >= size:
        return None
    return sorted(int(i) for i in np.random.default_rng(seed).permutation(size)[:limit])


def _store(settings: EvalSettings, base: str, engine: str, model: EvaluatedModel) -> PartStore:
    """Return the model's finished parts, which belong to its record: another name has parts of its own."""
    decides = _decides(settings, base, engine, model)
    return PartStore(settings.output, {**decides, "record": _record_name(settings, model)})


def _missing(store: PartStore, tasks: Mapping[str, Any], settings: EvalSettings) -> list[str]:
    """Return the tasks without a finished part that is still valid."""
    missing = []
    for name, task in tasks.items():
        part = store.read(name, TaskPart)
        stale = part is None or part.rendering != _rendering(name, task)
        if stale or (settings.keeps_outputs and part is not None and part.outputs is None):
            missing.append(name)
    return missing


def _configure(tasks: Mapping[str, Any], settings: EvalSettings) -> None:
    """Set the split, and what lm_eval.simple_evaluate sets on tasks before it calls `evaluate`."""
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
        task.set_fewshot_seed(seed=1234)


def _prove_constraints_compile(tasks: Mapping[str, Any]) -> None:
    """Raise TaskError before any model is loaded where a task has no constraint, or one that is wrong."""
    for name, task in tasks.items():
        constrain.grammar(name, task.eval_docs[0], task.config.generation_kwargs["until"])
