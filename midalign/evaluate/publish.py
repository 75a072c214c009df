"""From finished parts to a record, with the overlap of evaluation and training text."""

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from midalign import adapter as adapters
from midalign import guard, locks, record
from midalign.adapter import TrainingText
from midalign.data.overlap import OverlapCheck, Text
from midalign.evaluate import shards
from midalign.evaluate.partial import PartStore, TaskPart
from midalign.evaluate.plan import _decoding, _record_base, _record_engine, _record_sample
from midalign.evaluate.settings import EvalSettings, EvaluatedModel, Split, _record_name, _record_path

log = logging.getLogger(__name__)


def _publish(
    settings: EvalSettings,
    engine: str,
    model: EvaluatedModel,
    store: PartStore,
    parts: Mapping[str, TaskPart],
    tasks: Mapping[str, Any],
    roles: Mapping[str, record.Roles],
    run: str,
    check: OverlapCheck | None,
) -> None:
    """Write a model's record out of its finished parts."""
    results = {name: part.result for name, part in parts.items()}
    manifest = model.manifest
    file = _record_name(settings, model)
    entry = record.Record(
        name=file,
        created=datetime.now(UTC),
        arm="base" if model.folder is None else manifest.arm if manifest else "adapter",
        seed=manifest.seed if manifest else None,
        recipe=manifest.recipe if manifest else None,
        base=_record_base(settings),
        adapter=record.Adapter(name=model.name, digest=model.digest, manifest=manifest)
        if model.digest
        else None,
        roles=roles[model.name],
        engine=_record_engine(engine),
        decoding={
            **_decoding(settings),
            "generation": shards.in_common([tasks[name].config.generation_kwargs for name in parts]),
        },
        sample=_record_sample(settings),
        tasks=results,
        retrieval=store.read("retrieval", record.Retrieval),
        packages=adapters.package_versions(),
        seconds=round(sum(result.seconds for result in results.values()), 3),
        tokens=sum(result.tokens for result in results.values()),
        overlap=check,
        run=run,
        shard=record.Shard(number=settings.shard[0], of=settings.shard[1], run=run)
        if settings.shard
        else None,
    )
    items = {
        name: record.Items(
            np.array(part.doc_ids, np.int64),
            np.array(part.counts, np.int64),
            np.array(part.repeated, np.int64),
            None if part.comet is None else np.array(part.comet, np.int64),
            [one.prompt for one in part.outputs or []] if settings.shard else None,
        )
        for name, part in parts.items()
    }
    record.write(entry, items, settings.output)
    if settings.log_samples:
        lines = (
            json.dumps({"task": name, **output.model_dump()}, ensure_ascii=False) + "\n"
            for name, part in parts.items()
            for output in part.outputs or []
        )
        record.write_atomically(settings.output / f"{file}.outputs.jsonl", "".join(lines).encode())


def _check_overlap(
    models: Sequence[EvaluatedModel], base: str, names: Sequence[str], split: Split
) -> dict[str, OverlapCheck | None]:
    """Return the overlap of the tasks with each model's training text, None for a base of unknown training.

    Warns of overlap, and of training text that is named but cannot be compared.
    """
    trained_base = adapters.read_manifest(adapters.base_folder(base))
    scored: list[Text] | None = None
    by_sources: dict[tuple[TrainingText, ...] | None, OverlapCheck] = {}
    checks: dict[str, OverlapCheck | None] = {}
    for model in models:
        manifests: list[adapters.Manifest | None] = [trained_base] if trained_base else []
        if model.folder is not None:
            manifests.append(model.manifest)
        if not manifests:
            checks[model.name] = None
            continue
        texts = [manifest.training_text if manifest else None for manifest in manifests]
        sources = None if None in texts else tuple(dict.fromkeys(t for known in texts for t in known or []))
        if sources not in by_sources:
            if scored is None and sources is not None:
                scored = guard.scored(names, split)
            by_sources[sources] = guard.check_overlap(sources, scored or [])
        check = checks[model.name] = by_sources[sources]
        if check.found:
            log.warning(
                "%s was trained on text of this evaluation:\n%s", model.name, guard.described(check.found)
            )
        if check.unchecked and sources is not None:
            log.warning("The overlap of %s was not checked: %s", model.name, "; ".join(check.unchecked))
    return checks


def _lacks_overlap(settings: EvalSettings, model: EvaluatedModel) -> bool:
    """Return whether the model's record has no overlap check, or one that left text unchecked."""
    check = record.read(_record_path(settings, model)).overlap
    return check is None or bool(check.unchecked)


def _add_overlap(path: Path, check: OverlapCheck | None) -> None:
    """Put the overlap into a finished record, unless the record has a more complete check."""
    with locks.locked(path):
        entry = record.read(path)
        before = entry.overlap
        if check is not None and (before is None or len(check.unchecked) < len(before.unchecked)):
            updated = entry.model_copy(update={"overlap": check})
            record.write(updated, record.read_items(path), path.parent)
