"""Conditions under which a new result may replace an older one."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from midalign.record.models import Base, Engine, Record, Sample

TOKENIZER = "tokenizer, chat template or generation settings"
PROMPTS = "prompts"
SHARDS = "run of the shards"
GPU = "GPU"
USUAL: dict[str, JsonValue] = {
    "num_fewshot": 0,
    "apply_chat_template": False,
    "system_instruction": "",
    "batch-invariant": False,
}
"""Values of conditions that mean the same as not stating them."""


@dataclass(frozen=True)
class Conditions:
    """Conditions that a result must share with an older one of its name in order to replace it."""

    shared: Mapping[str, JsonValue]
    """Conditions of the whole record, by their name in messages."""
    tasks: Mapping[str, Mapping[str, JsonValue]]
    """Conditions by task."""
    retrieval: bool
    """True if pair retrieval is measured."""


def shared_conditions(
    base: Base, adapter: str | None, engine: Engine, sample: Sample, decoding: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """Return the shared conditions of a result. `adapter` is the adapter's digest."""
    return {
        # Outputs made elsewhere have no model digest. Their note has the digest of the outputs.
        "base": base.digest or f"{base.name}, {base.note}",
        TOKENIZER: base.tokenizer,
        "adapter": adapter,
        "engine": engine.name,
        "dtype": engine.dtype,
        GPU: engine.gpu,
        "batch-invariant": engine.batch_invariant,
        "split": sample.split,
        "limit": sample.limit,
        "sampling seed": sample.seed,
        "regime": "free",
        # Without generation settings: a record of several tasks names only the settings that all share.
        **{name: value for name, value in decoding.items() if name != "generation"},
    }


def conditions_of(record: Record) -> Conditions:
    """Return the conditions of a finished result."""
    digest = record.adapter.digest if record.adapter else None
    shared = shared_conditions(record.base, digest, record.engine, record.sample, record.decoding)
    if record.shard:  # a shard of more tasks has other items per task
        shared[SHARDS] = record.shard.run
    tasks = {
        name: task_conditions(
            task.version,
            task.data_digest,
            task.signatures,
            task.max_gen_toks,
            f"{task.comet.digest} {task.comet.version}" if task.comet else None,
            task.prompt_digest,
        )
        for name, task in record.tasks.items()
    }
    return Conditions(shared, tasks, record.retrieval is not None)


def task_conditions(
    version: float,
    data: str,
    signatures: Mapping[str, str],
    limit: int | None,
    comet: str | None,
    prompts: str | None = None,
) -> dict[str, JsonValue]:
    """Return the conditions of a task.

    Args:
        version: the task's version.
        data: digest of its data.
        signatures: sacreBLEU's signatures by metric, empty if not known.
        limit: token limit of an answer, None if not known.
        comet: digest and version of the COMET model, None without one.
        prompts: digest of the rendered prompts, None before they are rendered.
    """
    signed = ", ".join(signatures[name] for name in sorted(signatures)) or None
    return {
        "version": version,
        "data": data,
        "signatures": signed,
        "tokens per answer": limit,
        "COMET": comet,
        PROMPTS: prompts,
    }


def condition_differences(existing: Conditions, planned: Conditions) -> Iterator[str]:
    """Yield in words what the planned result would change or lose."""
    for name in {**existing.shared, **planned.shared}:
        before, now = _stated(existing, name), _stated(planned, name)
        unknown = name in (TOKENIZER, SHARDS, GPU) and None in (before, now)
        if before != now and not unknown:
            yield f"{name} {_short(before)}, now {_short(now)}"
    if existing.retrieval and not planned.retrieval:
        yield "retrieval measured, now not (its sentences are those of the first task)"
    for task, conditions in existing.tasks.items():
        for name, before in conditions.items():
            now = planned.tasks[task][name]
            if before not in (None, now) and not (name == PROMPTS and now is None):
                yield f"{name} of {task} {_short(before)}, now {_short(now)}"


def _stated(conditions: Conditions, name: str) -> JsonValue:
    """Return a shared condition, or None if it has its usual value."""
    value = conditions.shared.get(name)
    return None if value == USUAL.get(name) else value


def _short(value: JsonValue) -> str:
    """Return a value for a message, with digests cut to 12 digits."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))
