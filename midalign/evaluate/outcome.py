"""Digests of everything that determines an evaluation, and the conditions that records keep."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from midalign import adapter as adapters
from midalign import bases, chat, harness, record
from midalign.evaluate import generation, retrieval, tokenizers
from midalign.evaluate.answer_limits import task_limit
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.settings import SEED, EvalSettings, EvaluatedModel, base_name
from midalign.families import family


@cache
def base_tokenizer(base: str) -> Any:
    """Return the tokenizer of a base, loaded once per process."""
    return tokenizers.load_tokenizer(str(adapters.base_folder(base)))


def describe_base(settings: EvalSettings) -> record.Base:
    """Return the base as records describe it."""
    base = bases.resolve(settings.base)
    return record.Base(
        name=base_name(settings.base),
        digest=adapters.base_digest(base),
        tokenizer=adapters.tokenizer_digest(base),
        note=settings.note,
    )


def describe_engine(engine: str, settings: EvalSettings) -> record.Engine:
    """Return the engine as records describe it."""
    from midalign.device import device, fast_dtype, gpu_name

    return record.Engine(
        name=engine,
        dtype=fast_dtype(),
        device=device(),
        gpu=gpu_name(),
        batch_invariant=settings.batch_invariant and engine == "vllm",
    )


def describe_sample(settings: EvalSettings) -> record.Sample:
    """Return the split and the sample of items as records describe them."""
    return record.Sample(split=settings.split, limit=settings.limit, seed=SEED)


def describe_decoding(settings: EvalSettings) -> dict[str, Any]:
    """Return how outputs are prompted and decoded, apart from the tasks' own generation settings.

    Unusual keys are present only where they have an effect.
    """
    base = bases.resolve(settings.base)
    ignored = generation.acting_settings(generation.base_generation_config(base))
    return {
        "regime": settings.regime,
        "num_fewshot": settings.num_fewshot,
        "apply_chat_template": settings.apply_chat_template,
        "system_instruction": settings.system_instruction,
        **_unusual_prompting(settings, base),
        **({"generation_config_ignored": ignored} if ignored else {}),
    }


def _unusual_prompting(settings: EvalSettings, base: str) -> dict[str, Any]:
    """Return the settings of wording, thoughts and chat template that differ from their defaults."""
    prompting: dict[str, Any] = {}
    if settings.wording != 1:
        prompting["wording"] = settings.wording
    if settings.think_end_token is not None:
        prompting["think_end_token"] = settings.think_end_token
        prompting["max_thinking_tokens"] = settings.max_thinking_tokens
    if settings.enable_thinking is not None:
        prompting["enable_thinking"] = settings.enable_thinking
    if settings.apply_chat_template and not chat.has_system_role(base_tokenizer(base)):
        prompting["system_turn"] = chat.MERGED
    return prompting


def planned_conditions(
    settings: EvalSettings,
    engine: str,
    model: EvaluatedModel,
    tasks: Mapping[str, Any],
    comet_model: comet.CometModel | None,
    comet_tasks: Collection[str],
    run: str,
) -> record.Conditions:
    """Return the conditions that the model's record will have, as far as they are known beforehand.

    `comet_tasks` are the tasks that COMET scores, `run` is the digest of the run.
    """
    shared = record.shared_conditions(
        describe_base(settings),
        model.digest,
        describe_engine(engine, settings),
        describe_sample(settings),
        describe_decoding(settings),
    )
    if settings.shard:
        shared[record.SHARDS] = run
    by_comet = f"{comet_model.digest} {comet_model.version}" if comet_model else None
    by_task = {}
    for name, task in tasks.items():
        metadata = harness.metadata(name)
        task_family = family(metadata["family"])
        by_task[name] = record.task_conditions(
            metadata["version"],
            task_family.data_digest(metadata, settings.split),
            task_family.signatures(metadata),
            task_limit(task),
            by_comet if name in comet_tasks else None,
        )
    return record.Conditions(shared, by_task, bool(retrieval.source_and_languages(list(tasks))[1]))


def deciding_settings(
    settings: EvalSettings, base: str, engine: str, model: EvaluatedModel
) -> dict[str, Any]:
    """Return everything that determines a model's outputs, apart from the tasks themselves.

    The digest of it names the folder of finished parts, so a key that is added only where it has an effect
    keeps the parts of other evaluations valid.
    """
    from midalign.device import fast_dtype, gpu_name

    gpu, batch_invariant = gpu_name(), settings.batch_invariant and engine == "vllm"
    pooling = retrieval.describe_pooling(base_tokenizer(base), adapters.base_config(base).get_text_config())
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
        **_unusual_prompting(settings, base),
        **({"shots": "of other texts"} if settings.num_fewshot else {}),
        **({"pooling": pooling} if pooling != retrieval.POOLING else {}),
        **({"gpu": gpu} if gpu else {}),
        **({"batch_invariant": True} if batch_invariant else {}),
    }


def run_digest(
    settings: EvalSettings, base: str, engine: str, model: EvaluatedModel, tasks: Mapping[str, Any]
) -> str:
    """Return the digest of everything that determines the run's outcome except package versions and GPU.

    It is equal for all shards of a run. Records keep package versions and GPU beside it.
    """
    decides = deciding_settings(replace(settings, shard=None), base, engine, model)
    del decides["packages"]
    decides.pop("gpu", None)
    renderings = {name: rendering_digest(name, task) for name, task in tasks.items()}
    text = json.dumps([decides, renderings, settings.comet], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def rendering_digest(name: str, task: Any) -> str:
    """Return the digest of a task's prompts, generation settings and data, and of how it is scored."""
    metadata = harness.metadata(name)
    keys = ("description", "doc_to_text", "doc_to_target", "target_delimiter", "generation_kwargs")
    asked = {key: str(task.config[key]) for key in keys}
    task_family = family(metadata["family"])
    scored = [metadata["version"], task_family.data_digest(metadata, task.config.test_split)]
    if signatures := task_family.signatures(metadata):
        scored.append(signatures)
    return hashlib.sha256(json.dumps([asked, *scored], sort_keys=True).encode()).hexdigest()
