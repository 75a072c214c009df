"""Shards of an evaluation: the items of each, and the merge of their records."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midalign import harness, locks, record
from midalign.data.overlap import OverlapCheck
from midalign.errors import RecordError
from midalign.evaluate.comet import scores as comet
from midalign.evaluate.external_outputs import pooled_metrics
from midalign.families import family

NAME = re.compile(r"(.+)\.shard-\d+-of-\d+")
SAME = ("base", "adapter", "arm", "seed", "recipe", "roles", "engine", "sample", "packages", "trained_on")
"""Fields of a record that are equal in all its shards."""


def shard_items(positions: Mapping[str, Sequence[int]], number: int, of: int) -> dict[str, list[int]]:
    """Return the items of shard `number` (from 1) by task: a contiguous range of all items in task order.

    The ranges differ by at most one item. Each divides at most two tasks.
    """
    total = sum(map(len, positions.values()))
    first, end = (total * (number - 1) // of, total * number // of)
    shard, start = {}, 0
    for name, task_positions in positions.items():
        part = list(task_positions[max(first - start, 0) : max(end - start, 0)])
        if part:
            shard[name] = part
        start += len(task_positions)
    return shard


def merge_shards(folders: Sequence[Path], output: Path) -> list[Path]:
    """Merge the records of all shards in `folders`, write them into `output`, and return their paths.

    A merged record equals that of a run without shards except for its time and duration. Raises RecordError
    for folders without shards, for missing and duplicate shards, and for shards of different runs.
    """
    shards: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for file in sorted(folder.glob(f"*{record.SUFFIX}")):
            if match := NAME.fullmatch(file.name.removesuffix(record.SUFFIX)):
                shards[match[1]].append(file)
    if not shards:
        raise RecordError(
            f"No shard (*.shard-I-of-N.json) in {', '.join(map(str, folders))}. "
            f"Shards are written by midalign eval --shard I/N"
        )
    merged = {name: _merged(name, files) for name, files in shards.items()}
    paths = []
    for entry, items in merged.values():
        with locks.locked(output / f"{entry.name}{record.SUFFIX}"):
            paths.append(record.write_record(entry, items, output))
    return paths


def _merged(name: str, files: Sequence[Path]) -> tuple[record.Record, dict[str, record.Items]]:
    """Return the record of all shards, and its counts per item."""
    # 1. The shards in their order, each of the same run.
    entries = {file: record.read_record(file) for file in files}
    files = _sort_shards(name, entries)
    first = entries[files[0]]
    # 2. Results and items by task.
    parts: dict[str, list[tuple[record.TaskResult, record.Items]]] = defaultdict(list)
    for file in files:
        items = record.read_items(file)
        for task, result in entries[file].tasks.items():
            parts[task].append((result, items[task]))
    whole = {task: _join_items([items for _, items in shards]) for task, shards in parts.items()}
    results = {
        task: _pool_results(task, [result for result, _ in shards], whole[task])
        for task, shards in parts.items()
    }
    # 3. The record: fields that all shards share, and those over all items.
    entry = first.model_copy(
        update={
            "name": name,
            "created": max(entry.created for entry in entries.values()),
            "shard": None,
            "overlap": _overlap(list(entries.values())),
            "decoding": {
                **first.decoding,
                "generation": in_common([_generation(entries[file]) for file in files]),
            },
            "tasks": results,
            "seconds": round(sum(result.seconds for result in results.values()), 3),
            "tokens": sum(result.tokens for result in results.values()),
        }
    )
    return entry, {task: record.Items(i.doc_ids, i.counts, i.repeated, i.comet) for task, i in whole.items()}


def _overlap(entries: Sequence[record.Record]) -> OverlapCheck | None:
    """Return the most complete overlap check. That of each shard is of the whole split."""
    checks = [entry.overlap for entry in entries if entry.overlap is not None]
    return min(checks, key=lambda check: len(check.unchecked), default=None)


def _sort_shards(name: str, entries: Mapping[Path, record.Record]) -> list[Path]:
    """Return the files sorted by shard. Raises RecordError unless each shard of one run exists once."""
    # 1. All files are shards of one run, and none exists twice.
    by_number: dict[int, Path] = {}
    (first_file, first), *_ = entries.items()
    for file, entry in entries.items():
        if entry.shard is None or first.shard is None:
            raise RecordError(f"{file} has the name of a shard but is none. Restore or remove it")
        for field in SAME:
            if getattr(entry, field) != getattr(first, field):
                engines = f" ({_engine(entry)}, {_engine(first)})" if field == "engine" else ""
                raise RecordError(
                    f"{file} and {first_file} are shards of different runs: their {field} differs{engines}. "
                    f"Keep the shards of each run in a separate folder, and merge those of one run"
                )
        if (entry.shard.of, entry.shard.run) != (first.shard.of, first.shard.run):
            raise RecordError(
                f"{file} and {first_file} are shards of different runs: their tasks, settings or number of "
                f"shards differ. Keep the shards of each run in a separate folder, and merge those of one run"
            )
        if entry.shard.number in by_number:
            raise RecordError(
                f"{file} and {by_number[entry.shard.number]} are both shard {entry.shard.number}. "
                f"Remove one of them"
            )
        by_number[entry.shard.number] = file
    # 2. None is missing.
    assert first.shard is not None
    missing = sorted(set(range(1, first.shard.of + 1)) - set(by_number))
    if missing:
        raise RecordError(
            f"{name} lacks {len(missing)} of {first.shard.of} shards: {', '.join(map(str, missing))}. Run "
            f"midalign eval ... --shard {missing[0]}/{first.shard.of}, or give the folder that has it"
        )
    return [by_number[number] for number in sorted(by_number)]


def _engine(entry: record.Record) -> str:
    """Name an engine, its dtype and its device."""
    engine = entry.engine
    invariant = ", batch-invariant" if engine.batch_invariant else ""
    return f"{engine.name} {engine.dtype} on {engine.gpu or engine.device}{invariant}"


def _join_items(parts: Sequence[record.Items]) -> record.Items:
    """Return the items of one task in the order of the shards, which is that of the documents."""
    with_comet = [items.comet for items in parts if items.comet is not None]
    return record.Items(
        np.concatenate([items.doc_ids for items in parts]),
        np.concatenate([items.counts for items in parts]),
        np.concatenate([items.repeated for items in parts]),
        np.concatenate(with_comet) if with_comet else None,
        [prompt for items in parts for prompt in items.prompts or ()],
    )


def _pool_results(task: str, parts: Sequence[record.TaskResult], items: record.Items) -> record.TaskResult:
    """Return a task's result over all its items."""
    metadata = harness.metadata(task)
    by_comet = None
    if items.comet is not None:
        first, *others = (part.comet for part in parts if part.comet is not None)
        key = first.digest, first.version
        other = next((score for score in others if (score.digest, score.version) != key), None)
        if other:
            raise RecordError(
                f"{task} was scored by {first.name} ({first.digest[:12]}, unbabel-comet {first.version}) in "
                f"one shard, by {other.name} ({other.digest[:12]}, {other.version}) in another. Score all "
                f"shards by the same model"
            )
        model = comet.CometModel(first.name, first.digest, first.version)
        by_comet = comet.pooled_comet_score(model, items.comet.tolist())
    return parts[0].model_copy(
        update={
            "n": len(items.doc_ids),
            "counts": dict(zip(parts[0].counts, items.counts.sum(0).tolist(), strict=True)),
            "metrics": pooled_metrics(items.counts, metadata),
            "prompt_digest": prompt_digest(items.prompts or ()),
            "repeated": len(items.repeated),
            "without_repeated": record.scores_without_repeated(
                items, family(metadata["family"]).metrics(metadata)
            ),
            "cut_off": _sum([part.cut_off for part in parts]),
            "prompts_cut": _sum([part.prompts_cut for part in parts]),
            "comet": by_comet,
            "seconds": round(sum(part.seconds for part in parts), 3),
            "tokens": sum(part.tokens for part in parts),
        }
    )


def _sum(numbers: Sequence[int | None]) -> int | None:
    """Return the sum, or None if one of the numbers is unknown."""
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def prompt_digest(prompts: Iterable[str]) -> str:
    """Return the sha256 of rendered prompts, each followed by a zero byte."""
    return hashlib.sha256("".join(f"{prompt}\0" for prompt in prompts).encode()).hexdigest()


def _generation(entry: record.Record) -> dict[str, Any]:
    """Return the generation settings that the tasks of a record have in common."""
    settings = entry.decoding["generation"]
    assert isinstance(settings, dict)
    return settings


def in_common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the generation settings that are equal in all of `settings`.

    `max_gen_toks` may differ between tasks. Their results have it.
    """
    first, *others = settings
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
