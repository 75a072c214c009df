"""An evaluation on several machines: who answers what, and partial records put together again."""

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
from midalign.evaluate.score import rates
from midalign.families import family

NAME = re.compile(r"(.+)\.shard-\d+-of-\d+")
SAME = ("base", "adapter", "arm", "seed", "recipe", "roles", "engine", "sample", "packages")
"""Fields of a record that its shards have in common, named when they do not."""


def share(positions: Mapping[str, Sequence[int]], number: int, of: int) -> dict[str, list[int]]:
    """Return the items of shard `number` (from 1) by task: a stretch of all items in the order of the tasks.

    The stretches differ by at most one item, and cut at most two tasks each.
    """
    total = sum(map(len, positions.values()))
    first, end = (total * (number - 1) // of, total * number // of)
    found, start = {}, 0
    for name, own in positions.items():
        part = list(own[max(first - start, 0) : max(end - start, 0)])
        if part:
            found[name] = part
        start += len(own)
    return found


def merge(folders: Sequence[Path], output: Path) -> list[Path]:
    """Write the whole records of all shards in `folders` into `output`; returns their paths.

    A record equals that of one whole run but for its time and duration. Raises RecordError for folders
    without shards, for missing and doubled shards, and for shards of different runs.
    """
    shards: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for file in sorted(folder.glob(f"*{record.SUFFIX}")):
            if match := NAME.fullmatch(file.name.removesuffix(record.SUFFIX)):
                shards[match[1]].append(file)
    if not shards:
        raise RecordError(
            f"No shard (*.shard-I-of-N.json) in {', '.join(map(str, folders))}; "
            f"they are written by midalign eval --shard I/N"
        )
    merged = {name: _merged(name, files) for name, files in shards.items()}
    paths = []
    for entry, items in merged.values():
        with locks.locked(output / f"{entry.name}{record.SUFFIX}"):
            paths.append(record.write_record(entry, items, output))
    return paths


def _merged(name: str, files: Sequence[Path]) -> tuple[record.Record, dict[str, record.Items]]:
    entries = {file: record.read_record(file) for file in files}
    files = _in_order(name, entries)
    first = entries[files[0]]
    parts: dict[str, list[tuple[record.TaskResult, record.Items]]] = defaultdict(list)
    for file in files:
        items = record.read_items(file)
        for task, result in entries[file].tasks.items():
            parts[task].append((result, items[task]))
    whole = {task: _joined([items for _, items in some]) for task, some in parts.items()}
    results = {
        task: _pooled(task, [result for result, _ in some], whole[task]) for task, some in parts.items()
    }
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
    """Return the most complete of the shards' checks, each of which is of the whole split."""
    checks = [entry.overlap for entry in entries if entry.overlap is not None]
    return min(checks, key=lambda check: len(check.unchecked), default=None)


def _in_order(name: str, entries: Mapping[Path, record.Record]) -> list[Path]:
    """Return the files by shard. Raises RecordError unless each shard of one run exists once."""
    by_number: dict[int, Path] = {}
    (first_file, first), *_ = entries.items()
    for file, entry in entries.items():
        if entry.shard is None or first.shard is None:
            raise RecordError(f"{file} is named as a shard and is none; restore or remove it")
        for field in SAME:
            if getattr(entry, field) != getattr(first, field):
                raise RecordError(
                    f"{file} and {first_file} are shards of different runs: their {field} differs. "
                    f"Merge the shards of one run, each run's from a folder of its own"
                )
        if (entry.shard.of, entry.shard.run) != (first.shard.of, first.shard.run):
            raise RecordError(
                f"{file} and {first_file} are shards of different runs: their tasks, settings or number of "
                f"shards differ. Merge the shards of one run, each run's from a folder of its own"
            )
        if entry.shard.number in by_number:
            raise RecordError(
                f"{file} and {by_number[entry.shard.number]} are both shard {entry.shard.number}; remove one"
            )
        by_number[entry.shard.number] = file
    assert first.shard is not None
    missing = sorted(set(range(1, first.shard.of + 1)) - set(by_number))
    if missing:
        raise RecordError(
            f"{name} lacks {len(missing)} of {first.shard.of} shards: {', '.join(map(str, missing))}. Run "
            f"midalign eval ... --shard {missing[0]}/{first.shard.of}, or give the folder that has it"
        )
    return [by_number[number] for number in sorted(by_number)]


def _joined(parts: Sequence[record.Items]) -> record.Items:
    """Return the items of one task in the order of the shards, which is that of the documents."""
    with_comet = [one.comet for one in parts if one.comet is not None]
    return record.Items(
        np.concatenate([one.doc_ids for one in parts]),
        np.concatenate([one.counts for one in parts]),
        np.concatenate([one.repeated for one in parts]),
        np.concatenate(with_comet) if with_comet else None,
        [prompt for one in parts for prompt in one.prompts or ()],
    )


def _pooled(task: str, parts: Sequence[record.TaskResult], items: record.Items) -> record.TaskResult:
    """Return a task's result over all its items."""
    metadata = harness.metadata(task)
    by_comet = None
    if items.comet is not None:
        said, *others = (one.comet for one in parts if one.comet is not None)
        other = next(
            (one for one in others if (one.digest, one.version) != (said.digest, said.version)), None
        )
        if other:
            raise RecordError(
                f"{task} was scored by {said.name} ({said.digest[:12]}, unbabel-comet {said.version}) in one "
                f"shard, by {other.name} ({other.digest[:12]}, {other.version}) in another. Score all by one"
            )
        model = comet.Model(said.name, said.digest, said.version)
        by_comet = comet.pooled(model, items.comet.tolist())
    return parts[0].model_copy(
        update={
            "n": len(items.doc_ids),
            "counts": dict(zip(parts[0].counts, items.counts.sum(0).tolist(), strict=True)),
            "metrics": rates(items.counts, metadata),
            "prompt_digest": prompt_digest(items.prompts or ()),
            "repeated": len(items.repeated),
            "without_repeated": record.scores_without_repeated(
                items, family(metadata["family"]).metrics(metadata)
            ),
            "cut_off": _sum([one.cut_off for one in parts]),
            "prompts_cut": _sum([one.prompts_cut for one in parts]),
            "comet": by_comet,
            "seconds": round(sum(one.seconds for one in parts), 3),
            "tokens": sum(one.tokens for one in parts),
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
    found = entry.decoding["generation"]
    assert isinstance(found, dict)
    return found


def in_common(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the common generation settings.

    `max_gen_toks` may differ between tasks, and is in their files.
    """
    first, *others = settings
    return {key: value for key, value in first.items() if all(one.get(key) == value for one in others)}
