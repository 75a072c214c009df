"""Checks of a record's tasks against those of this version: versions, data, items and prompts."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from midalign import harness
from midalign.data import own
from midalign.errors import DataError, MidalignError, TaskError
from midalign.evaluate.plan import configure_tasks, draw_sample
from midalign.evaluate.settings import EvalSettings, Split, WordingNumber
from midalign.evaluate.shards import prompt_digest
from midalign.evaluate.wordings import NUMBERS
from midalign.families import family
from midalign.leaderboard.load import task_place
from midalign.record import Items, Record, TaskResult

GOLD = ("slot_gold", "span_gold")
"""Columns that follow from an item alone, whatever the answer."""
SHOWN = 3
"""Problems of one kind that are listed before the others are counted."""

CheckState = Literal["fail", "note", "ok"]


@dataclass(frozen=True)
class CheckFinding:
    """The result of checking one subject of a record."""

    subject: str
    state: CheckState
    text: str


def list_problems(problems: Sequence[str]) -> list[str]:
    """Return the first SHOWN problems, and the number of the others."""
    more = len(problems) - SHOWN
    return [*problems[:SHOWN], *([f"{more} more of this kind"] if more > 0 else [])]


def check_task_group(record: Record, items: dict[str, Items], prompts: bool) -> list[CheckFinding]:
    """Return the findings on tasks, data, prompts and languages of a record.

    Args:
        record: a record whose figures follow from its items.
        items: counts per item by task.
        prompts: True to render prompts, which loads lm-eval.
    """
    problems: dict[str, list[str]] = {"tasks": [], "data": [], "prompts": [], "languages": []}
    notes: dict[str, list[str]] = {subject: [] for subject in problems}
    current, known = [], []
    # 1. Tasks and versions.
    for name, task in record.tasks.items():
        problem, note = _version(name, task)
        problems["tasks"] += [problem] if problem else []
        notes["tasks"] += [note] if note else []
        known += [] if problem else [name]
        current += [] if problem or note else [name]
    if record.sample.split not in get_args(Split):
        problems["tasks"].append(f"Unknown split {record.sample.split!r}: expected validation or test")
        current = []
    # 2. Data: digests, then the items themselves if the data are here.
    for name in current:
        problem = _digest_problem(name, record)
        problems["data"] += [problem] if problem else []
    rendered = []
    for name in current if prompts and not problems["data"] else []:
        try:
            documents = _documents(name, record.sample.split, _fewshot(record))
        except MidalignError:
            notes["data"].append(f"{_source(name)} is not here, so items and prompts were not compared")
            notes["prompts"].append(f"Not rendered: {_source(name)} is not here")
            continue
        problem = _items_problem(name, record, items[name], documents[1])
        problems["data"] += [problem] if problem else []
        rendered += [] if problem else [(name, documents)]
    # 3. Prompts.
    for name, (task_object, docs) in rendered:
        problem, note = _prompt_finding(name, record, task_object, docs)
        problems["prompts"] += [problem] if problem else []
        notes["prompts"] += [note] if note else []
    if not rendered and not notes["prompts"]:
        notes["prompts"].append("Not rendered")
    if len(current) < len(record.tasks):
        notes["data"].append("Digests of other task versions are not known")
    # 4. Languages.
    notes["languages"] = _missing_languages(record, known)
    return [
        finding for subject in problems for finding in _findings(subject, problems[subject], notes[subject])
    ]


def _findings(subject: str, problems: Sequence[str], notes: Sequence[str]) -> list[CheckFinding]:
    failed = [CheckFinding(subject, "fail", text) for text in list_problems(problems)]
    noted = [CheckFinding(subject, "note", text) for text in list_problems(list(dict.fromkeys(notes)))]
    return failed + noted or [CheckFinding(subject, "ok", "")]


def _version(name: str, task: TaskResult) -> tuple[str, str]:
    """Return what is wrong with a task or its version, and what readers should know. Both may be empty."""
    try:
        metadata = harness.metadata(name)
    except (TaskError, DataError, KeyError):
        if own.is_own(name):
            return "", f"{own_group(name)} is a user's own data, which is not here"
        return f"Unknown task {name}", ""
    known = float(metadata["version"])
    if (task.family, task.language) != (metadata["family"], metadata["language"]):
        return (
            f"{name} is {metadata['family']} in {metadata['language']}, not {task.family} in {task.language}",
            "",
        )
    if task.version > known:
        return f"{name} has version {task.version:g}, this midalign knows {known:g}. Update midalign", ""
    if task.version < known:
        return "", f"Task version {task.version:g}, now {known:g}: scores do not compare with newer records"
    return "", ""


def own_group(name: str) -> str:
    """Return the group of a task of a user's own data, or the name itself."""
    with suppress(TaskError):
        return own.split_name(name)[0]
    return name


def _source(name: str) -> str:
    return str(harness.metadata(name)["source"])


def _digest_problem(name: str, record: Record) -> str:
    """Return how the data digest of a task of the current version differs from the known one, or nothing."""
    metadata, stated = harness.metadata(name), record.tasks[name].data_digest
    try:
        known = family(metadata["family"]).data_digest(metadata, record.sample.split)
    except (MidalignError, KeyError) as error:
        return f"{name} has no {record.sample.split} split: {error}"
    return "" if stated == known else f"{name} has data {stated[:12]}, known are {known[:12]}"


def _fewshot(record: Record) -> int:
    shots = record.decoding.get("num_fewshot", 0)
    return shots if isinstance(shots, int) and 0 <= shots <= 100 else 0


@cache
def _documents(
    name: str, split: Split, num_fewshot: int, wording: WordingNumber = 1
) -> tuple[Any, list[dict[str, Any]]]:
    """Return a task as an evaluation configures it, and its documents. Raises DataError without its data."""
    tasks = harness.load_tasks([name])
    settings = EvalSettings(
        base="", tasks=(name,), output=Path(), split=split, num_fewshot=num_fewshot, wording=wording
    )
    configure_tasks(tasks, settings)
    return tasks[name], list(tasks[name].eval_docs)


def _sample_positions(size: int, limit: int | None, seed: int) -> list[int]:
    """Return the positions of a record's sample, all of them for an invalid seed."""
    sample = draw_sample(size, limit, seed) if 0 <= seed < 2**32 else None
    return sample or list(range(size))


def _items_problem(name: str, record: Record, items: Items, docs: Sequence[dict[str, Any]]) -> str:
    """Return how the items of a record differ from its sample, or their gold counts from the data."""
    limit, seed = record.sample.limit, record.sample.seed
    if limit is not None and limit < 1:
        return f"{name} has a sample of {limit} items"
    if sorted(items.doc_ids.tolist()) != _sample_positions(len(docs), limit, seed):
        return f"{name} has {len(items.doc_ids)} items that are not its sample of {len(docs)} documents"
    columns = [column for column in GOLD if column in record.tasks[name].counts]
    if not columns:
        return ""
    places = [list(record.tasks[name].counts).index(column) for column in columns]
    truth = _gold(name, record.sample.split, _fewshot(record))
    wrong = np.flatnonzero((items.counts[:, places] != truth[items.doc_ids]).any(axis=1))
    if len(wrong):
        return f"{name}, document {items.doc_ids[wrong[0]]}: its {columns[0]} is not that of the data"
    return ""


@cache
def _gold(name: str, split: Split, num_fewshot: int) -> np.ndarray:
    """Return the columns of GOLD that a task has: (documents, columns)."""
    from midalign.metrics import scorer

    metadata = harness.metadata(name)
    _, docs = _documents(name, split, num_fewshot)
    columns = scorer(metadata["family"]).COLUMNS
    places = [columns.index(column) for column in GOLD if column in columns]
    counts = np.array([family(metadata["family"]).counts(doc, "") for doc in docs], np.int64)
    gold: np.ndarray = counts[:, places]
    return gold


def _prompt_finding(
    name: str, record: Record, task_object: Any, docs: Sequence[dict[str, Any]]
) -> tuple[str, str]:
    """Return the problem with a task's prompts, and the reason why they were not rendered."""
    stated = record.tasks[name].prompt_digest
    system = record.decoding.get("system_instruction")
    if stated is None:
        return "", "No prompts: outputs were made elsewhere"
    if record.decoding.get("apply_chat_template"):
        return "", "Not rendered: the chat template is the base's"
    if system is not None and not isinstance(system, str):
        return f"system_instruction is no text: {system!r}", ""
    wording = record.decoding.get("wording", 1)
    if type(wording) is not int or wording not in NUMBERS:
        return f"Unknown wording {wording!r} of the prompts: expected 1, 2 or 3", ""
    sample = record.sample
    try:
        known = _rendered(
            name,
            sample.split,
            sample.limit,
            sample.seed,
            _fewshot(record),
            system,
            cast(WordingNumber, wording),
        )
    except TaskError as error:  # no further wordings
        return str(error), ""
    return ("" if stated == known else f"{name} has prompts {stated[:12]}, rendered here {known[:12]}"), ""


@cache
def _rendered(
    name: str,
    split: Split,
    limit: int | None,
    seed: int,
    num_fewshot: int,
    system: str | None,
    wording: WordingNumber,
) -> str:
    """Return the digest of a task's prompts."""
    task, docs = _documents(name, split, num_fewshot, wording)
    return prompt_digest(
        harness.prompt(task, docs[position], system_instruction=system, num_fewshot=num_fewshot)
        for position in _sample_positions(len(docs), limit, seed)
    )


def _missing_languages(record: Record, existing: Sequence[str]) -> list[str]:
    """Return which languages of a group the record lacks, in words: one text per partial group.

    `existing` are tasks that this version knows. Others are not expanded, since `slot:PATH` would read any
    file.
    """
    groups: dict[str, set[str]] = {}
    for name in existing:
        if place := task_place(name, record.tasks[name].language):
            groups.setdefault(place[0], set()).add(name)
    notes = []
    for group, names in groups.items():
        with suppress(MidalignError, KeyError):
            every = set(harness.expand([group]))
            if missing := len(every - names):
                notes.append(f"Partial: {len(every) - missing} of {len(every)} tasks of {group}")
    return notes
