"""Cells of a board without a record or of an earlier task version, and the commands that fill them."""

import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from midalign import bases, harness
from midalign.errors import MidalignError
from midalign.leaderboard.load import Run
from midalign.record import Record


@dataclass(frozen=True)
class BoardModel:
    """A model of a board: a base, or an adapter on it. Models with equal digests are the same model."""

    name: str = field(compare=False)
    base: str = field(compare=False)
    """Name of the base."""
    digests: tuple[str | None, str | None]
    """Digests of base and adapter."""


@dataclass(frozen=True)
class BoardColumn:
    """A group of tasks on a sample, with the prompts and decoding of its records."""

    group: str
    split: str
    limit: int | None
    decoding: str
    """Prompt settings and regime as JSON."""

    @property
    def title(self) -> str:
        """Group, sample and whatever is unusual of the prompts."""
        sample = f"{self.split} {self.limit or 'full'}"
        unusual = {key: value for key, value in json.loads(self.decoding).items() if value}
        return ", ".join([self.group, sample, *(f"{key} {value}" for key, value in unusual.items())])


@dataclass(frozen=True)
class MissingCell:
    """Tasks of a column that a model has no record of."""

    model: BoardModel
    column: BoardColumn
    tasks: tuple[str, ...]
    """Tasks without a record."""
    every: tuple[str, ...]
    """All tasks of the column, which one record must cover to stand in its table."""

    @property
    def command(self) -> str:
        """The command that evaluates the model on all tasks of the column, into a folder of its own."""
        adapters = [self.model.name] if self.model.digests[1] else []
        output = f"results/{self.column.group}"
        return _eval_command(self.model.base, adapters, not adapters, self.column, self.every, output)


@dataclass(frozen=True)
class OutdatedRecord:
    """Tasks of a record whose version is higher now."""

    file: str
    model: BoardModel
    column: BoardColumn
    tasks: tuple[str, ...]
    recorded: tuple[float, ...]
    """Versions of these tasks in the record, lowest first."""
    current: float
    """Highest version of these tasks now."""
    external: bool
    """True for outputs made elsewhere."""

    @property
    def versions(self) -> str:
        """Recorded and current versions, such as `1 → 2`."""
        return f"{', '.join(f'{version:g}' for version in self.recorded)} → {self.current:g}"

    @property
    def base_replaced(self) -> bool:
        """True if the bundled base has changed since, so that its scores cannot be made again."""
        return self.model.digests[0] in bases.EARLIER_VERSIONS


def find_missing(
    runs: Sequence[Run], groups: Sequence[str] = ()
) -> tuple[dict[BoardColumn, int], list[MissingCell]]:
    """Return the columns of a board with their numbers of models, and the cells without a record.

    Every model is expected on every column of its base. Outputs made elsewhere are no models that could be
    evaluated, so they are skipped.

    Args:
        runs: the board's runs.
        groups: task groups to look at, all if empty.
    """
    # 1. Which model has which tasks in which column of its base.
    have: dict[BoardModel, dict[BoardColumn, set[str]]] = {}
    for run in runs:
        if run.record.engine.name == "external" or (groups and run.group not in groups):
            continue
        tasks = {run.task_name(code) for code in run.languages}
        have.setdefault(_model(run.record), {}).setdefault(_column(run), set()).update(tasks)
    # 2. What other models of the base have in a column, and it has not.
    every: dict[tuple[str | None, BoardColumn], set[str]] = {}
    for model, columns in have.items():
        for column, tasks in columns.items():
            every.setdefault((model.digests[0], column), set()).update(tasks)
    cells = []
    for model, columns in have.items():
        for (base, column), tasks in every.items():
            lacking = tasks - columns.get(column, set())
            if base == model.digests[0] and lacking:
                cells.append(MissingCell(model, column, tuple(sorted(lacking)), tuple(sorted(tasks))))
    models = {column: sum(column in columns for columns in have.values()) for _, column in every}
    return models, cells


def current_version(task: str) -> float | None:
    """Return the version that a task has now, or None for a removed task and for data that are not here."""
    try:
        return float(harness.metadata(task)["version"])
    except (MidalignError, KeyError):
        return None


def find_outdated(runs: Sequence[Run], groups: Sequence[str] = ()) -> list[OutdatedRecord]:
    """Return the records of earlier task versions, in their order.

    A record is skipped if the same model has the same tasks in their current version on the same sample,
    with the same prompts.

    Args:
        runs: the board's runs.
        groups: task groups to look at, all if empty.
    """
    selected = [run for run in runs if not groups or run.group in groups]
    # 1. Tasks scored in the current version.
    scored = {
        (_name_or_digests(run), _column(run), name)
        for run in selected
        for name in map(run.task_name, run.languages)
        if run.record.tasks[name].version == current_version(name)
    }
    # 2. Records without one.
    outdated = []
    for run in selected:
        model, column = _name_or_digests(run), _column(run)
        current: dict[str, float] = {}
        for name in map(run.task_name, run.languages):
            now = current_version(name)
            if now is None or run.record.tasks[name].version >= now or (model, column, name) in scored:
                continue
            current[name] = now
        if current:
            recorded = tuple(sorted({run.record.tasks[name].version for name in current}))
            external = run.record.engine.name == "external"
            about = (_model(run.record), column, tuple(sorted(current)))
            outdated.append(OutdatedRecord(run.file, *about, recorded, max(current.values()), external))
    return outdated


def rescoring_commands(outdated: Sequence[OutdatedRecord]) -> list[str]:
    """Return the commands that score records again: one per base, group and sample.

    They write into folders of their own, since a record may not replace one of another version. Outputs made
    elsewhere are scored task by task.
    """
    commands, adapters = [], defaultdict[tuple[Any, ...], list[str]](list)
    for entry in outdated:
        column = entry.column
        output = f"results/{column.group}-{column.split}-{column.limit or 'full'}-v{entry.current:g}"
        if entry.external:
            words = ["midalign", "score", "--outputs", f"{entry.model.base}.jsonl", "--split", column.split]
            commands += [shlex.join([*words, "--task", task, "--output", output]) for task in entry.tasks]
        elif not entry.base_replaced:
            evaluated = (entry.model.digests[0], entry.model.base, column, entry.tasks, output)
            adapters[evaluated].append(entry.model.name if entry.model.digests[1] else "")
    for (_, base, column, tasks, output), names in adapters.items():
        unique = [name for name in dict.fromkeys(names) if name]
        commands.append(_eval_command(base, unique, "" in names, column, tasks, output))
    return commands


def _eval_command(
    base: str,
    adapters: Sequence[str],
    with_base: bool,
    column: BoardColumn,
    tasks: Sequence[str],
    output: str,
) -> str:
    """Return the command that evaluates adapters, and the base too if wanted, on tasks of a column."""
    words = ["midalign", "eval", "--base", base]
    for adapter in adapters:
        words += ["--adapter", adapter]
    words += [] if with_base else ["--adapters-only"]
    words += [*_task_options(column.group, tasks), "--split", column.split]
    words += ["--limit", str(column.limit)] if column.limit else []
    how = json.loads(column.decoding)
    words += ["--constrained"] if how["regime"] == "constrained" else []
    words += ["--apply-chat-template"] if how["apply_chat_template"] else []
    for key in ("num_fewshot", "system_instruction", "wording"):
        words += [f"--{key.replace('_', '-')}", str(how[key])] if how.get(key) else []
    return shlex.join([*words, "--output", output])


def _name_or_digests(run: Run) -> BoardModel | str:
    """Return what identifies a run's model. Outputs made elsewhere have a name and no digests."""
    return run.record.base.name if run.record.engine.name == "external" else _model(run.record)


def _model(record: Record) -> BoardModel:
    name = record.adapter.name if record.adapter else record.base.name
    digests = (record.base.digest, record.adapter.digest if record.adapter else None)
    return BoardModel(name, record.base.name, digests)


def _column(run: Run) -> BoardColumn:
    """Return the column of a run. Its tokens per answer follow from the tasks."""
    how = {
        "regime": run.record.decoding.get("regime", "free"),
        "num_fewshot": run.record.decoding.get("num_fewshot", 0),
        "apply_chat_template": run.record.decoding.get("apply_chat_template", False),
        "system_instruction": run.record.decoding.get("system_instruction") or "",
    }
    how |= {"wording": run.record.wording} if run.record.wording != 1 else {}
    how["regime"] = "" if how["regime"] == "free" else how["regime"]
    sample = run.record.sample
    return BoardColumn(run.group, sample.split, sample.limit, json.dumps(how))


def _task_options(group: str, tasks: Sequence[str]) -> list[str]:
    """Return the options that name these tasks: the group, the group in some languages, or each task."""
    try:
        if set(harness.expand([group])) == set(tasks):
            return ["--tasks", group]
        codes = list(dict.fromkeys(code for task in tasks for code in harness.task_languages(task)))
        if set(harness.tasks_in_languages([group], codes)) == set(tasks):
            return ["--tasks", group, "--languages", ",".join(codes)]
    except (MidalignError, KeyError):
        pass  # tasks that this version does not have
    return ["--tasks", ",".join(tasks)]


def rerun_command(run: Run) -> str:
    """Return the command that evaluates a run's model on its tasks again, or nothing for external outputs."""
    record = run.record
    if record.engine.name == "external":
        return ""
    tasks = tuple(run.task_name(code) for code in run.languages)
    more = ["--engine", record.engine.name]
    more += ["--batch-invariant"] if record.engine.batch_invariant else []
    more += ["--trained-on", record.trained_on] if record.trained_on else []
    return f"{MissingCell(_model(record), _column(run), tasks, tasks).command} {shlex.join(more)}"
