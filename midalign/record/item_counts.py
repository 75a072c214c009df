"""Counts per item of a record's tasks, and their compressed form."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from pydantic import ValidationError

from midalign.errors import RecordError, first_problem
from midalign.record.models import ItemsLine, Record

_AGAIN = "Restore it, or remove it with its record and evaluate the model again with midalign eval"


@dataclass(frozen=True)
class Items:
    """Counts per item of one task."""

    doc_ids: np.ndarray
    """(n,) int."""
    counts: np.ndarray
    """(n, columns) int."""
    repeated: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Document ids of items that occur verbatim in the same data set's training split."""
    comet: np.ndarray | None = None
    """(n,) int, COMET's scores in millionths, if the task has them."""
    prompts: list[str] | None = None
    """Rendered prompts. Only shards keep them, to recompute the digest after merging."""

    @property
    def unrepeated(self) -> np.ndarray:
        """(n, columns) counts of the items that are not repeated."""
        others: np.ndarray = self.counts[~np.isin(self.doc_ids, self.repeated)]
        return others


def nan_to_none(value: float) -> float | None:
    """Return a metric's value as a record stores it: None for NaN."""
    return None if np.isnan(value) else value


def scores_without_repeated(
    items: Items, metrics: Mapping[str, Callable[..., Any]]
) -> dict[str, float | None]:
    """Return the metrics over the items that are not repeated. Empty if these are all items or none."""
    others = items.unrepeated
    if not 0 < len(others) < len(items.counts):
        return {}
    return {name: nan_to_none(float(metric(others.sum(0)))) for name, metric in metrics.items()}


def pack_items(items: Mapping[str, Items], columns: Mapping[str, Sequence[str]]) -> bytes:
    """Return the compressed items file: one JSON line per task.

    A line stores the counts by column, which compresses several times better than by item. `columns` names
    the counts of each task. Raises RecordError if their number is wrong.
    """
    lines = []
    for task, of_task in items.items():
        names, shape = columns[task], of_task.counts.shape
        if shape != (len(of_task.doc_ids), len(names)):
            raise RecordError(f"{task}: counts {shape}, expected {(len(of_task.doc_ids), len(names))}")
        by_column = {name: of_task.counts[:, i].tolist() for i, name in enumerate(names)}
        line = {"task": task, "doc_ids": of_task.doc_ids.tolist(), "counts": by_column}
        if of_task.comet is not None:
            line["comet"] = of_task.comet.tolist()
        if len(of_task.repeated):
            line["repeated"] = of_task.repeated.tolist()
        if of_task.prompts is not None:
            line["prompts"] = of_task.prompts
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    return zstandard.ZstdCompressor(level=19).compress("".join(lines).encode())


def unpack_items(file: Path, packed: bytes, entry: Record) -> dict[str, Items]:
    """Return the items by task. Raises RecordError unless each task of the record has one valid line."""
    try:
        lines = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False).decode().splitlines()
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise RecordError(f"{file} is not zstd-compressed text ({error}). {_AGAIN}") from error
    items: dict[str, Items] = {}
    for number, text in enumerate(lines, start=1):
        try:
            line = ItemsLine.model_validate_json(text)
        except ValidationError as error:
            value = error.errors()[0]["input"]
            found = f", found {value!r}" if isinstance(value, int | float) else ""
            problem = first_problem(error, whole="the line")
            raise RecordError(f"{file}, line {number}: {problem}{found}. {_AGAIN}") from error
        if line.task not in entry.tasks:
            raise RecordError(f"{file}, line {number}: the record has no task {line.task}. {_AGAIN}")
        if line.task in items:
            raise RecordError(f"{file}, line {number}: duplicate task {line.task}. {_AGAIN}")
        items[line.task] = _items(f"{file}, line {number}", line, list(entry.tasks[line.task].counts))
    missing = [task for task in entry.tasks if task not in items]
    if missing:
        raise RecordError(f"{file} has no line for task {missing[0]}. {_AGAIN}")
    return items


def _items(place: str, line: ItemsLine, columns: Sequence[str]) -> Items:
    """Return a line's items with `columns` in this order. Raises RecordError if its lists do not fit."""
    if set(line.counts) != set(columns):
        raise RecordError(
            f"{place}: counts of {', '.join(line.counts)}, but the record has {', '.join(columns)}. {_AGAIN}"
        )
    lengths = {name: len(column) for name, column in line.counts.items()}
    if line.comet is not None:
        lengths["comet"] = len(line.comet)
    for name, length in lengths.items():
        if length != len(line.doc_ids):
            raise RecordError(f"{place}: {length} of {name} for {len(line.doc_ids)} doc_ids. {_AGAIN}")
    if len(set(line.repeated)) < len(line.repeated) or not set(line.repeated) <= set(line.doc_ids):
        raise RecordError(f"{place}: repeated items that are not among the doc_ids. {_AGAIN}")
    return Items(
        np.array(line.doc_ids, np.int64),
        np.array([line.counts[name] for name in columns], np.int64).T,
        np.array(line.repeated, np.int64),
        None if line.comet is None else np.array(line.comet, np.int64),
        line.prompts,
    )
