"""Outputs made elsewhere, by an API or another engine, scored by the tasks' own code into the same record."""

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from midalign import adapter, guard, harness, locks, record
from midalign.data.text import read_text
from midalign.errors import DataError, TaskError
from midalign.evaluate.comet import scores
from midalign.evaluate.thoughts import answer_of, check_end
from midalign.families import family
from midalign.metrics import scorer
from midalign.metrics.bootstrap import stderr

log = logging.getLogger(__name__)

THOUGHTS = "</think>"
"""End of the thoughts of most reasoning models."""

SPLITS = ("train", "validation", "test")


def score(
    task: str,
    outputs: Path,
    split: str,
    folder: Path,
    comet: str | None = None,
    report: scores.Report = lambda done, total: None,
    think_end_token: str | None = None,
) -> tuple[record.Record, Path]:
    """Score `outputs` on a split of a language task, and write the record into `folder`.

    `outputs` has a line {"doc_id": 0, "output": "..."} for each document of the split, in any order, `doc_id`
    being its position; `comet` names a COMET model, whose progress goes to `report`. Thoughts up to the last
    `think_end_token` of an output are cut. Raises TaskError for an unknown task or split, or one that COMET
    does not score, DataError (file and line) for a malformed file or one whose documents are not those of the
    split, EngineError where COMET is not there or the end of thoughts is empty, RecordError where a record of
    other outputs has the name that this one would have.
    """
    names = harness.expand([task])
    if len(names) > 1:
        raise TaskError(
            f"{task} is a group of {len(names)} tasks; score one of them at a time: --task {names[0]}"
        )
    (task,) = names
    if split not in SPLITS:
        raise TaskError(f"No split {split!r}; expected one of {', '.join(SPLITS)}")
    if comet is not None:
        scores.directions([task])
    if think_end_token is not None:
        check_end(think_end_token)
    metadata = harness.metadata(task)
    tasks, scored = family(metadata["family"]), scorer(metadata["family"])
    docs = tasks.dataset(**metadata)[split]
    texts = read_outputs(outputs, len(docs))
    if think_end_token is not None:
        texts = [answer_of(text, think_end_token) for text in texts]
    elif thinking := sum(THOUGHTS in text for text in texts):
        log.warning(
            "%d of %d outputs hold %s and are scored as they are. To score what follows it: "
            "--think-end-token '%s'",
            *(thinking, len(texts), THOUGHTS, THOUGHTS),
        )
    counts = np.array([tasks.counts(doc, texts[i]) for i, doc in enumerate(docs)], np.int64)
    pooled = counts.sum(0)
    repeated = np.array(guard.repeated_items(task, split), np.int64)
    language = str(metadata["language"])
    by_comet, millionths = None, None
    if comet is not None:
        segments = [scores.segment(doc, texts[i]) for i, doc in enumerate(docs)]
        model, found = scores.score(comet, segments, report)
        by_comet, millionths = scores.pooled(model, found), np.array(found, np.int64)
    items = record.Items(np.arange(len(docs)), counts, repeated, millionths)
    result = record.TaskResult(
        language=language,
        family=metadata["family"],
        version=metadata["version"],
        n=len(docs),
        counts={column: int(total) for column, total in zip(scored.COLUMNS, pooled, strict=True)},
        metrics=rates(counts, metadata),
        signatures=tasks.signatures(metadata),
        data_digest=tasks.data_digest(metadata, split),
        prompt_digest=None,
        comet=by_comet,
        repeated=len(repeated),
        without_repeated=record.scores_without_repeated(items, tasks.metrics(metadata)),
        seconds=0.0,
        tokens=0,
    )
    digest = hashlib.sha256(outputs.read_bytes()).hexdigest()
    of_split = "" if split == "test" else f"-{split}"
    entry = record.Record(
        name=record.record_file_name(f"{outputs.stem}-{task}{of_split}"),
        created=datetime.now(UTC),
        arm="external",
        seed=None,
        recipe=None,
        base=record.Base(name=outputs.stem, digest=None, note=f"outputs made elsewhere, sha256 {digest}"),
        adapter=None,
        roles=record.Roles(supervised=[], aligned=[], unseen=[language]),
        engine=record.Engine(name="external", dtype="", device=""),
        decoding={} if think_end_token is None else {"think_end_token": think_end_token},
        sample=record.Sample(split=split, limit=None, seed=0),
        tasks={task: result},
        retrieval=None,
        packages=adapter.package_versions(),
        seconds=0.0,
        tokens=0,
    )
    with locks.locked(folder / f"{entry.name}{record.SUFFIX}"):
        return entry, record.write_record(entry, {task: items}, folder)


def rates(counts: np.ndarray, metadata: Mapping[str, Any]) -> dict[str, record.Metric]:
    """Return a task's metrics of counts per item (items, columns), as lm-eval's aggregations give them."""
    return {
        name: record.Metric(
            value=record.nan_to_none(float(metric(counts.sum(0)))),
            stderr=record.nan_to_none(stderr(counts, metric)),
            n=len(counts),
        )
        for name, metric in family(metadata["family"]).metrics(metadata).items()
    }


def read_outputs(path: Path, size: int) -> list[str]:
    """Return the outputs of documents 0 to size-1 in order.

    Raises DataError for malformed or incomplete files.
    """
    lines = read_text(path).split("\n")
    texts: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        doc_id, output = _parse(path, number, line)
        if not 0 <= doc_id < size:
            raise DataError(
                f"{path}, line {number}: doc_id {doc_id} does not exist; the split has {size} documents, "
                f"0 to {size - 1}. Is it another split (--split) or another task (--task)?"
            )
        if doc_id in texts:
            raise DataError(f"{path}, line {number}: doc_id {doc_id} stands there twice; expected it once")
        texts[doc_id] = output
    missing = [i for i in range(size) if i not in texts]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (" and more" if len(missing) > 5 else "")
        raise DataError(
            f"{path} lacks {len(missing)} of {size} documents: doc_id {shown}. "
            f'Add them; an answer that was not given is {{"doc_id": {missing[0]}, "output": ""}}'
        )
    return [texts[i] for i in range(size)]


def _parse(path: Path, number: int, line: str) -> tuple[int, str]:
    try:
        entry = json.loads(line)
        doc_id, output = entry["doc_id"], entry["output"]
        if type(doc_id) is int and isinstance(output, str):
            return doc_id, output
    except (json.JSONDecodeError, KeyError, TypeError):
        pass
    raise DataError(
        f'{path}, line {number}: found {line[:80]!r}, expected {{"doc_id": 0, "output": "..."}} '
        f"with a whole number and a string"
    )
