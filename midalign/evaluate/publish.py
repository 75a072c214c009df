"""Records of finished parts, with the overlap of training and evaluation text."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from midalign import adapter as adapters
from midalign import guard, harness, locks, record
from midalign.adapter import TrainingText
from midalign.data.overlap import OverlapCheck, SplitText
from midalign.data.registry import republishable
from midalign.evaluate import shards
from midalign.evaluate.outcome import describe_base, describe_decoding, describe_engine, describe_sample
from midalign.evaluate.partial import TaskPart
from midalign.evaluate.plan import EvalPlan
from midalign.evaluate.settings import EvaluatedModel, Split, record_name
from midalign.families import family
from midalign.files import write_atomically
from midalign.record.outputs import OUTPUTS_SUFFIX, PRIVATE_OUTPUTS_SUFFIX, SavedOutput, pack_outputs

log = logging.getLogger(__name__)


def publish_record(
    plan: EvalPlan, model: EvaluatedModel, parts: Mapping[str, TaskPart], overlap: OverlapCheck | None
) -> None:
    """Write a model's record, with counts per item, and outputs if the settings ask for them."""
    settings, manifest = plan.settings, model.manifest
    name, run = record_name(settings, model), plan.run_digests[model.name]
    results = {task: part.result for task, part in parts.items()}
    entry = record.Record(
        name=name,
        created=datetime.now(UTC),
        arm="base" if model.folder is None else manifest.arm if manifest else "adapter",
        seed=manifest.seed if manifest else None,
        recipe=manifest.recipe if manifest else None,
        base=describe_base(settings),
        adapter=record.Adapter(name=model.name, digest=model.digest, manifest=manifest)
        if model.digest
        else None,
        roles=plan.roles[model.name],
        engine=describe_engine(plan.engine, settings),
        decoding={
            **describe_decoding(settings),
            "generation": shards.in_common([plan.tasks[task].config.generation_kwargs for task in parts]),
        },
        sample=describe_sample(settings),
        tasks=results,
        retrieval=plan.stores[model.name].read("retrieval", record.Retrieval),
        packages=adapters.package_versions(),
        seconds=round(sum(result.seconds for result in results.values()), 3),
        tokens=sum(result.tokens for result in results.values()),
        overlap=overlap,
        run=run,
        trained_on=model.declared_training(settings),
        shard=record.Shard(number=settings.shard[0], of=settings.shard[1], run=run)
        if settings.shard
        else None,
    )
    items = {
        task: record.Items(
            np.array(part.doc_ids, np.int64),
            np.array(part.counts, np.int64),
            np.array(part.repeated, np.int64),
            None if part.comet is None else np.array(part.comet, np.int64),
            [output.prompt for output in part.outputs or []] if settings.shard else None,
        )
        for task, part in parts.items()
    }
    # The record comes last: a record without its outputs would count as finished.
    save_outputs(plan, name, parts)
    if settings.log_samples:
        lines = (
            json.dumps({"task": task, **output.model_dump()}, ensure_ascii=False) + "\n"
            for task, part in parts.items()
            for output in part.outputs or []
        )
        write_atomically(settings.output / f"{name}.outputs.jsonl", "".join(lines).encode())
    record.write_record(entry, items, settings.output)


def save_outputs(plan: EvalPlan, name: str, parts: Mapping[str, TaskPart]) -> None:
    """Write a new record's outputs with input and gold answer, compressed, if the settings ask for them.

    Outputs quote the data. Those of data that may not be republished go into a file of their own. Files of an
    earlier record of this name are removed: their outputs are not those that the new record counts.
    """
    files: dict[str, list[SavedOutput]] = {OUTPUTS_SUFFIX: [], PRIVATE_OUTPUTS_SUFFIX: []}
    for task, part in parts.items() if plan.settings.save_outputs else ():
        metadata, docs = harness.metadata(task), plan.tasks[task].eval_docs
        task_family = family(metadata["family"])
        quotable = republishable(task_family.origin(metadata, plan.settings.split))
        field = task_family.input_field(metadata) or "source"  # of a translation
        files[OUTPUTS_SUFFIX if quotable else PRIVATE_OUTPUTS_SUFFIX] += [
            SavedOutput(
                task=task,
                **output.model_dump(exclude={"prompt"}),
                input=docs[output.doc_id][field],
                gold=docs[output.doc_id]["target"],
            )
            for output in part.outputs or []
        ]
    for suffix, outputs in files.items():
        path = plan.settings.output / (name + suffix)
        if outputs:
            write_atomically(path, pack_outputs(outputs))
        else:
            path.unlink(missing_ok=True)


def check_training_overlap(
    models: Sequence[EvaluatedModel], base: str, names: Sequence[str], split: Split
) -> dict[str, OverlapCheck | None]:
    """Return the overlap of the tasks with each model's training text, None for a base of unknown training.

    Warns of overlap, and of training text that is named but cannot be compared.
    """
    base_manifest = adapters.read_manifest(adapters.base_folder(base))
    scored: list[SplitText] | None = None
    by_sources: dict[tuple[TrainingText, ...] | None, OverlapCheck] = {}
    checks: dict[str, OverlapCheck | None] = {}
    for model in models:
        # 1. The model's training text: that of the base, if midalign trained it, and that of the adapter.
        manifests: list[adapters.Manifest | None] = [base_manifest] if base_manifest else []
        if model.folder is not None:
            manifests.append(model.manifest)
        if not manifests:
            checks[model.name] = None
            continue
        texts = [manifest.training_text if manifest else None for manifest in manifests]
        sources = None if None in texts else tuple(dict.fromkeys(t for known in texts for t in known or []))
        # 2. The check, once for all models with the same training text.
        if sources not in by_sources:
            if scored is None and sources is not None:
                scored = guard.scored(names, split)
            by_sources[sources] = guard.check_overlap(sources, scored or [])
        check = checks[model.name] = by_sources[sources]
        if check.found:
            log.warning(
                "%s was trained on text of this evaluation:\n%s",
                model.name,
                guard.describe_overlaps(check.found),
            )
        if check.unchecked and sources is not None:
            log.warning("The overlap of %s was not checked: %s", model.name, "; ".join(check.unchecked))
    return checks


def lacks_overlap(path: Path) -> bool:
    """Return whether a record has no overlap check, or one that left text unchecked."""
    overlap = record.read_record(path).overlap
    return overlap is None or bool(overlap.unchecked)


def add_overlap(path: Path, overlap: OverlapCheck | None) -> None:
    """Put the overlap into a finished record, unless the record has a more complete check."""
    with locks.locked(path):
        entry = record.read_record(path)
        known = entry.overlap
        if overlap is not None and (known is None or len(overlap.unchecked) < len(known.unchecked)):
            updated = entry.model_copy(update={"overlap": overlap})
            record.write_record(updated, record.read_items(path), path.parent)
