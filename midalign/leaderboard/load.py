"""Load records from a folder and verify each against its counts per item."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from midalign import record
from midalign.data.registry import treebanks
from midalign.errors import RecordError, nearest
from midalign.languages import languages
from midalign.leaderboard.trust import LOG, Trust, file_sha256, trust_of
from midalign.metrics import FAMILIES, Scorer, scorer
from midalign.record import Items, Record, TaskResult
from midalign.record.outputs import OUTPUTS_SUFFIX

TOLERANCE = 1e-6
"""Largest difference of a record's metric from the metric of its counts."""
RECORD_PATH = re.compile(r"([A-Za-z0-9][A-Za-z0-9._@=+-]*/)?[A-Za-z0-9][A-Za-z0-9._@=+-]*\.json")
"""Paths of published records below the folder of results."""
_AGAIN = "Restore the record, or evaluate the model again with midalign eval"


@dataclass(frozen=True)
class Run:
    """The part of a record that belongs to one task group. A record with two groups makes two runs."""

    file: str
    record: Record
    group: str
    counts: dict[str, np.ndarray]
    """Language, direction or treebank -> (items, columns of the family) int32."""
    ids: dict[str, str]
    """The same keys -> sha256 of the document ids, in order."""
    unrepeated: dict[str, np.ndarray]
    """The same keys -> (columns,) pooled counts of the items that occur in no training split, if known."""
    comet: dict[str, np.ndarray] = field(default_factory=dict)
    """Direction -> (items,) COMET's scores in millionths, if it has any."""
    trust: Trust = "checked"
    outputs: Path | None = None
    """The file of outputs that may be published, if there is one."""

    @property
    def languages(self) -> list[str]:
        """Sorted language codes."""
        return sorted(self.counts)

    def task(self, language: str) -> TaskResult:
        """Return the record's entry of a language."""
        return self.record.tasks[self.task_name(language)]

    def task_name(self, language: str) -> str:
        """Return the task of a language, as lm-eval spells it."""
        return self._task_names[language]

    @cached_property
    def _task_names(self) -> dict[str, str]:
        """Task of each language. Boards look tasks up often: a search per look-up would be quadratic."""
        names: dict[str, str] = {}
        for name, task in self.record.tasks.items():
            place = task_place(name, task.language)
            if place and place[0] == self.group:
                names.setdefault(place[1], name)
        return names


def load_runs(folder: Path) -> list[Run]:
    """Load the records `folder/*.json` and `folder/*/*.json`, in the order of their file names.

    Raises RecordError for a folder without records, an invalid record, a missing or altered items file,
    figures of a record that do not follow from its items, and a record that a verification found altered.
    """
    runs = []
    for file in record_paths(folder):
        of_file = list(runs_of_file(file, file.relative_to(folder).as_posix()))
        if of_file[0].trust == "altered":
            raise RecordError(
                f"{file} is altered, as its verification in {file.with_name(LOG)} says. Remove the record "
                f"and its items file, or verify it again with midalign leaderboard verify"
            )
        runs += of_file
    return runs


def record_paths(folder: Path) -> list[Path]:
    """Return the record files `folder/*.json` and `folder/*/*.json`, sorted.

    Raises RecordError for a missing folder and for one without records.
    """
    if not folder.is_dir():
        raise RecordError(f"No folder {folder}. Records are written by: midalign eval")
    files = sorted(
        file
        for pattern in ("*.json", "*/*.json")
        for file in folder.glob(pattern)
        if not file.parent.name.startswith(".") or file.parent == folder
    )
    if not files:
        raise RecordError(f"No record (*.json) in {folder}. Records are written by midalign eval")
    return files


def record_sums(folder: Path) -> str:
    """Return a line per record and log of verifications with sha256 and path, as `sha256sum` prints it.

    A record has the digest of its items file, so the lines pin both files. Paths are relative to the folder.
    """
    records = record_paths(folder)
    logs = sorted({path.with_name(LOG) for path in records})
    paths = [*records, *(log for log in logs if log.is_file())]
    return "".join(f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)


def load_record(file: Path) -> Record:
    """Load one complete record. Raises RecordError as `load_runs` does."""
    *_, run = runs_of_file(file, file.name)
    return run.record


def runs_of_file(file: Path, shown: str) -> Iterator[Run]:
    """Yield the runs of one record, under the name `shown`. Raises RecordError as `load_runs` does."""
    entry = record.read_record(file)
    if entry.shard:
        raise RecordError(
            f"{file} is shard {entry.shard.number} of {entry.shard.of}. Join the shards first: "
            f"midalign leaderboard merge {file.parent} --output FOLDER"
        )
    items = record.read_items(file)
    if not isinstance(entry.decoding.get("generation", {}), dict):
        raise RecordError(f"{file}: decoding.generation is not an object of settings. {_AGAIN}")
    _check_languages(file, entry)
    groups: dict[str, Run] = {}
    trust, outputs = trust_of(file, entry), file.with_name(file.stem + OUTPUTS_SUFFIX)
    saved = outputs if outputs.is_file() else None
    for name, task in entry.tasks.items():
        place = task_place(name, task.language)
        if place is None:
            raise RecordError(f"{file}: task {name} does not end in its language, _{task.language}")
        group, code = place
        if task.family not in FAMILIES:
            raise RecordError(
                f"{file}: task {name} is of family {task.family!r}. This version knows {', '.join(FAMILIES)}"
            )
        counts, ids, unrepeated = _counts(file, entry, items, name)
        comet = _comet(file, task, items, name)
        value_of = _formula(entry.schema_version, scorer(task.family))
        _verify(file, name, task, counts, value_of)
        _verify_repeated(file, name, task, unrepeated, value_of)
        run = groups.setdefault(group, Run(shown, entry, group, {}, {}, {}, trust=trust, outputs=saved))
        run.counts[code] = counts
        run.ids[code] = ids
        if task.repeated is not None and len(unrepeated):
            run.unrepeated[code] = unrepeated.sum(axis=0, dtype=np.int64)
        if comet is not None:
            run.comet[code] = comet
    if not groups:
        raise RecordError(f"{file}: the record has no task. Remove it, or evaluate the model again")
    yield from groups.values()


def task_place(name: str, language: str) -> tuple[str, str] | None:
    """Return a task's group, and its language, direction or treebank. None if its name does not end in it.

    xSID's tasks end in xSID's own code of the language.
    """
    row = languages().get(language)
    ends = {language: language, **{name: name for name, code in treebanks().items() if code == language}}
    if row and row.codes["xsid"]:
        ends[row.codes["xsid"].replace("-", "_")] = language
    return next(
        ((name.removesuffix(f"_{end}"), key) for end, key in ends.items() if name.endswith(f"_{end}")), None
    )


def _counts(
    file: Path, entry: Record, items: dict[str, Items], task: str
) -> tuple[np.ndarray, str, np.ndarray]:
    """Return counts of a task, the digest of its document ids, and the counts of items that do not repeat.

    Both counts are (items, columns) of the family. The first are sorted by document id.
    """
    columns = list(entry.tasks[task].counts)
    family = scorer(entry.tasks[task].family)
    missing = sorted(set(family.COLUMNS) - set(columns) - family.ADDED)
    if missing:
        raise RecordError(
            f"{file}: its counts lack {', '.join(missing)}, found {', '.join(columns)}. "
            f"It was written by another version of midalign. Evaluate the model again"
        )
    order = np.argsort(items[task].doc_ids, kind="stable")
    ids = items[task].doc_ids[order]
    if (np.diff(ids) == 0).any():
        raise RecordError(f"{file}: {task} counts a document twice. Evaluate the model again")
    # The cast is safe: read_items allows no larger counts.
    counts = family_columns(items[task].counts[order], columns, family).astype(np.int32)
    _check_relations(file, task, entry.tasks[task].family, ids, counts)
    digest = hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest()
    return counts, digest, family_columns(items[task].unrepeated, columns, family)


def family_columns(counts: np.ndarray, columns: Sequence[str], family: Scorer) -> np.ndarray:
    """Return the family's columns of (items, columns) counts.

    Derived columns are computed from the others. Other columns that the record lacks are zeros.
    """
    padded = np.pad(counts, ((0, 0), (0, 1)))
    selected: np.ndarray = padded[
        :, [columns.index(c) if c in columns else len(columns) for c in family.COLUMNS]
    ]
    for name, derive in family.DERIVED.items():
        selected[:, family.COLUMNS.index(name)] = derive(selected)
    return selected


def _check_relations(file: Path, task: str, family: str, ids: np.ndarray, counts: np.ndarray) -> None:
    """Raise RecordError for the first item whose counts break the family's AT_MOST."""
    columns = scorer(family).COLUMNS
    by_name = {name: counts[:, i].astype(np.int64) for i, name in enumerate(columns)}
    if (by_name["n"] != 1).any():
        i = int(np.argmax(by_name["n"] != 1))
        raise RecordError(f"{file}: {task}, document {ids[i]}: n {by_name['n'][i]}, expected 1. {_AGAIN}")
    for *parts, whole in scorer(family).AT_MOST:
        total = np.sum([by_name[part] for part in parts], axis=0)
        wrong = np.flatnonzero(total > by_name[whole])
        if len(wrong):
            i = int(wrong[0])
            raise RecordError(
                f"{file}: {task}, document {ids[i]}: {' + '.join(parts)} {total[i]}, "
                f"expected at most {whole} {by_name[whole][i]}. {_AGAIN}"
            )


def _check_languages(file: Path, entry: Record) -> None:
    """Raise RecordError for a language that midalign does not know."""
    roles, retrieval = entry.roles, entry.retrieval
    codes = [task.language for task in entry.tasks.values()]
    codes += [*roles.supervised, *roles.aligned, *roles.unseen]
    codes += [*retrieval.accuracy, *retrieval.base_accuracy] if retrieval else []
    sides = (side for code in codes for side in code.split("-"))  # a direction has two
    unknown = next((side for side in sides if side not in languages()), None)
    if unknown is not None:
        raise RecordError(
            f"{file}: unknown language {unknown!r}.{nearest(unknown, languages())} "
            f"All codes: midalign data languages"
        )


def _comet(file: Path, task: TaskResult, items: dict[str, Items], name: str) -> np.ndarray | None:
    """Return COMET's scores of a task, sorted by document id.

    Raises RecordError unless the record's mean follows from them.
    """
    scores, stated = items[name].comet, task.comet
    if stated is None and scores is None:
        return None
    if stated is None or scores is None:
        raise RecordError(
            f"{file}: {name} has COMET's scores in one of its two files only. Evaluate it again"
        )
    mean = scores.mean() / 1e6
    if len(scores) != stated.n or len(scores) != task.n or abs(mean - stated.value) > TOLERANCE:
        raise RecordError(
            f"{file}: {name} says COMET {stated.value} of {stated.n} items, its items give {mean} of "
            f"{len(scores)}. The record was altered: restore it, or evaluate the model again"
        )
    ordered: np.ndarray = scores[np.argsort(items[name].doc_ids, kind="stable")]
    return ordered


Formula = Callable[[str, np.ndarray], float | None]
"""Maps a metric's name and pooled counts (columns,) to the value that a record states."""


def _formula(schema_version: int, family: Scorer) -> Formula:
    """Return how records of a schema version compute their metrics.

    Version 1 divided `off_target` by all items, and had 0 without a case.
    """

    def current(metric: str, pooled: np.ndarray) -> float | None:
        return record.nan_to_none(float(family.METRICS[metric](pooled)))

    def version_1(metric: str, pooled: np.ndarray) -> float:
        if metric == "off_target":
            other, segments = (pooled[family.COLUMNS.index(name)] for name in ("off_target", "n"))
            return float(other / max(segments, 1))
        return current(metric, pooled) or 0.0

    return version_1 if schema_version == 1 else current


def _equal(figure: float | None, other: float | None) -> bool:
    """Return whether two figures are equal within TOLERANCE, or both None."""
    if figure is None or other is None:
        return figure is other
    return abs(figure - other) <= TOLERANCE


def _verify(file: Path, name: str, task: TaskResult, counts: np.ndarray, value_of: Formula) -> None:
    """Raise RecordError unless n, pooled counts and metrics of a record follow from its items."""
    pooled, family = counts.sum(axis=0, dtype=np.int64), scorer(task.family)

    # Collect every figure twice: as its items give it, and as the record states it.
    computed: dict[str, float | None] = {"n": len(counts)}
    computed.update(zip(family.COLUMNS, pooled.tolist(), strict=True))
    # Records of earlier versions do not state the newer columns.
    unstated = {name: computed[name] for name in family.ADDED}
    stated: dict[str, float | None] = {**unstated, **task.counts, "n": task.n}
    if family.HEADLINE not in task.metrics:
        raise RecordError(f"{file}: {name} has no {family.HEADLINE}. Evaluate the model again")
    # A task may lack metrics of its family: entities have no intent.
    for metric, entry in task.metrics.items():
        if metric not in family.METRICS:
            raise RecordError(f"{file}: {name} has an unknown metric {metric!r}. {_AGAIN}")
        computed[metric], stated[metric] = value_of(metric, pooled), entry.value
        computed[f"n of {metric}"], stated[f"n of {metric}"] = len(counts), entry.n
    for figure in ("cut_off", "prompts_cut"):
        if (getattr(task, figure) or 0) > task.n:
            raise RecordError(
                f"{file}: {name} has {figure} {getattr(task, figure)} of {task.n} items. {_AGAIN}"
            )
    for figure, value in computed.items():
        if not _equal(value, stated[figure]):
            raise RecordError(
                f"{file}: {name} says {figure} {stated[figure]}, its items give {value}. "
                f"The record was altered: restore it, or evaluate the model again"
            )


def _verify_repeated(
    file: Path, name: str, task: TaskResult, unrepeated: np.ndarray, value_of: Formula
) -> None:
    """Raise RecordError unless a record's metrics without repeated items follow from the other items."""
    if task.repeated is None:
        return
    pooled, family = unrepeated.sum(axis=0, dtype=np.int64), scorer(task.family)
    follows = task.n - task.repeated == len(unrepeated) and all(
        metric in family.METRICS and _equal(value_of(metric, pooled), value)
        for metric, value in task.without_repeated.items()
    )
    if not follows:
        raise RecordError(
            f"{file}: {name} says {task.repeated} repeated items and scores without them that its "
            f"items do not give. The record was altered: restore it, or evaluate the model again"
        )
