"""Check records before they go on a board.

`load_runs` rejects records whose figures do not follow from their items. A check finds more, and reports all
of it: unknown tasks, data and prompts, missing languages, undeclared training, records of the same model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from midalign.adapter import Manifest
from midalign.errors import MidalignError, RecordError
from midalign.languages import same_language
from midalign.leaderboard.check_tasks import CheckFinding, check_task_group, list_problems
from midalign.leaderboard.load import Run, family_columns, record_paths, runs_of_file
from midalign.leaderboard.trust import LOG
from midalign.metrics import bootstrap, scorer
from midalign.record import Items, Record, read_items, read_record
from midalign.record.machine_paths import machine_paths

SUBJECTS = (
    "schema",
    "figures",
    "tasks",
    "data",
    "prompts",
    "languages",
    "overlap",
    "training",
    "engine",
    "unique",
)
"""Subjects of a check in the order of the table. docs/results/check-and-verify.md says what they mean."""

ENGINES = ("hf", "vllm", "external")
DTYPES = ("float32", "bfloat16", "float16")
TOLERANCE = 1e-6
"""Largest difference of a record's standard error from that of its counts."""


@dataclass
class RecordCheck:
    """The findings on one record."""

    file: Path
    record: Record | None = None
    """None if the file is not a record."""
    findings: list[CheckFinding] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """True if the record must not stand on a board."""
        return any(finding.state == "fail" for finding in self.findings)

    def state(self, subject: str) -> str:
        """Return the worst state of a subject: fail, note, ok, or an empty text if it was not checked."""
        states = {finding.state for finding in self.findings if finding.subject == subject}
        return next((state for state in ("fail", "note", "ok") if state in states), "")

    def add(self, subject: str, problems: Sequence[str] = (), notes: Sequence[str] = ()) -> None:
        """Add failures and notes on a subject, or that it is in order if there are none."""
        self.findings += [CheckFinding(subject, "fail", text) for text in problems]
        self.findings += [CheckFinding(subject, "note", text) for text in notes]
        if not problems and not notes:
            self.findings.append(CheckFinding(subject, "ok", ""))


def record_files(paths: Sequence[Path]) -> list[Path]:
    """Return the records among files and folders, as `load_runs` finds them in a folder, each once.

    Raises RecordError for a path that does not exist, and for a folder without records.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            files |= dict.fromkeys(record_paths(path))
        elif path.exists():
            files[path] = None
        else:
            raise RecordError(f"No record {path}. Records are written by midalign eval")
    return list(files)


def check_records(
    files: Sequence[Path], prompts: bool = True, published: Sequence[Path] = ()
) -> list[RecordCheck]:
    """Check records, each for itself and for duplicates among them and among published ones.

    Args:
        files: record files.
        prompts: True to render the prompts of tasks whose data are here, which loads lm-eval.
        published: records that are on the board already. They are not checked.

    Raises RecordError for an unreadable published record.
    """
    known = [RecordCheck(file, read_record(file)) for file in published]
    checks = [_check_record(file, prompts) for file in files]
    _check_duplicates([*known, *(check for check in checks if check.record)], published)
    return checks


def group_findings(checks: Sequence[RecordCheck]) -> dict[CheckFinding, list[Path]]:
    """Return failures, then notes, each text once, with the records that it is about."""
    about: dict[CheckFinding, list[Path]] = {}
    for check in checks:
        for finding in check.findings:
            if finding.state != "ok":
                about.setdefault(finding, []).append(check.file)
    return dict(sorted(about.items(), key=lambda entry: entry[0].state != "fail"))


def _check_record(file: Path, prompts: bool) -> RecordCheck:
    check = RecordCheck(file)
    # 1. The two files, and the figures. What follows needs both.
    try:
        record, items = read_record(file), read_items(file)
    except (MidalignError, OSError) as error:
        check.add("schema", [str(error)])
        return check
    check.record = record
    check.add("schema", _schema_problems(file, record), _schema_notes(record))
    try:
        runs = list(runs_of_file(file, file.name))
    except MidalignError as error:
        check.add("figures", [str(error)])
        return check
    check.add("figures", [*_verification_problems(runs[0]), *_stderr_problems(record, items)])
    # 2. Its tasks, training and engine.
    check.findings += check_task_group(record, items, prompts)
    check.add("overlap", _overlap_problems(record), _overlap_notes(record))
    check.add("training", *_training(record))
    check.add("engine", _engine_problems(record))
    return check


def _verification_problems(run: Run) -> list[str]:
    if run.trust == "altered":
        return [f"The record is altered, as its verification in {LOG} says. Evaluate the model again"]
    return []


def _schema_problems(file: Path, record: Record) -> list[str]:
    problems = []
    if record.name != file.stem:
        problems.append(f"The record's name is {record.name}, its file's {file.stem}. Rename the file")
    problems += [
        f"{field_and_path} is a path of a machine, which records must not publish. Evaluate the model again"
        for field_and_path in machine_paths(record)
    ]
    return problems


def _schema_notes(record: Record) -> list[str]:
    if record.schema_version == 1:
        return [
            "Schema version 1 is read as 2: off_target per identified output, no value without a case, "
            "signatures unknown"
        ]
    return []


def _stderr_problems(record: Record, items: dict[str, Items]) -> list[str]:
    """Return the standard errors that the counts per item do not give. Version 1 had other formulas."""
    if record.schema_version == 1:
        return []
    problems = []
    for name, task in record.tasks.items():
        family = scorer(task.family)
        counts = family_columns(items[name].counts, list(task.counts), family)
        for metric, stated in task.metrics.items():
            error = bootstrap.stderr(counts, family.METRICS[metric])
            known = None if np.isnan(error) else error
            if (known is None) != (stated.stderr is None) or abs(
                (known or 0) - (stated.stderr or 0)
            ) > TOLERANCE:
                problems.append(f"{name} says stderr {stated.stderr} of {metric}, its items give {known}")
    return list_problems(problems)


def _overlap_problems(record: Record) -> list[str]:
    impossible = [
        overlap.sentence
        for overlap in record.known_overlaps
        if overlap.texts_found > overlap.texts
        or overlap.short > overlap.exact + overlap.folded
        or min(overlap.exact, overlap.folded, overlap.near, overlap.short) < 0
    ]
    manifest = record.adapter.manifest if record.adapter else None
    stated = [*(record.overlap.found if record.overlap else ()), *((manifest and manifest.overlap) or ())]
    quoting = [overlap.sentence for overlap in stated if overlap.examples]
    return [f"Impossible figures: {sentence}" for sentence in impossible] + [
        f"Records must not quote test texts, whose licence may forbid it: {sentence}" for sentence in quoting
    ]


def _overlap_notes(record: Record) -> list[str]:
    notes = [
        f"Marked on the board: {overlap.sentence}" for overlap in record.known_overlaps if overlap.texts_found
    ]
    if record.overlap is None and record.adapter:
        notes.append("Training and test text were not compared. A new midalign eval compares them")
    elif record.overlap:
        notes += [f"Not compared: {text}" for text in record.overlap.unchecked]
    return notes


def _training(record: Record) -> tuple[list[str], list[str]]:
    """Return what is wrong with the declaration of the training, and what readers should know about it."""
    if record.engine.name == "external":
        return [], ["Outputs made elsewhere: nothing is known of the model"]
    if record.adapter is None:
        return ([], []) if record.arm == "base" else ([f"Arm {record.arm} without an adapter"], [])
    manifest = record.adapter.manifest
    if manifest is None and not record.trained_on:
        return [
            "No declaration of what the adapter was trained on. Add it: midalign eval --trained-on "
            "'MASSIVE train, en es'"
        ], []
    if manifest is None:
        return [], [f"Trained elsewhere, declared as: {record.trained_on}"]
    problems = [
        f"{name} {here!r}, the manifest says {there!r}"
        for name, here, there in _stated_twice(record, manifest)
        if here != there
    ]
    if manifest.training_text is None:
        return problems, ["An older manifest of a merged adapter does not name its training text"]
    undigested = [text.source for text in manifest.training_text if text.digest is None]
    return problems, [f"Training text without a digest: {', '.join(undigested)}"] if undigested else []


def _stated_twice(record: Record, manifest: Manifest) -> list[tuple[str, object, object]]:
    """Return what a record and its adapter's manifest both state: name, the record's and the manifest's."""

    def codes(languages: Sequence[str]) -> list[str]:
        return sorted(set(map(same_language, languages)))

    return [
        ("arm", record.arm, manifest.arm),
        ("seed", record.seed, manifest.seed),
        ("recipe", record.recipe, manifest.recipe),
        ("base digest", record.base.digest, manifest.base_digest),
        ("supervised", codes(record.roles.supervised), codes(manifest.supervised)),
        (
            "aligned",
            codes(record.roles.aligned),
            sorted(set(codes(manifest.aligned)) - set(codes(manifest.supervised))),
        ),
    ]


def _engine_problems(record: Record) -> list[str]:
    engine = record.engine
    if engine.name not in ENGINES:
        return [f"Unknown engine {engine.name!r}: expected {', '.join(ENGINES)}"]
    if engine.name != "external" and engine.dtype not in DTYPES:
        return [f"Unknown dtype {engine.dtype!r}: expected {', '.join(DTYPES)}"]
    return []


def _check_duplicates(checks: Sequence[RecordCheck], published: Sequence[Path]) -> None:
    """Add the records that answer a task with the same model on the same sample, and equal items files."""
    on_board = set(published)
    by_result: dict[tuple[object, ...], RecordCheck] = {}
    by_items: dict[str, RecordCheck] = {}
    for check in checks:
        record = check.record
        assert record is not None
        twins = dict.fromkeys(by_result[key].file for key in _results(record) if key in by_result)
        for key in _results(record):
            by_result.setdefault(key, check)
        digest = record.items.sha256 if record.items else ""
        same_items = by_items.setdefault(digest, check)
        notes = []
        if same_items is not check and same_items.file not in twins:
            notes.append(f"The same counts per item as {same_items.file.name}, of another model")
        check.add("unique", [_duplicate(check.file, twin, twin in on_board) for twin in twins], notes)


def _duplicate(file: Path, twin: Path, published: bool) -> str:
    """Return the failure of a record with the same result as another."""
    if not published:
        return f"{twin} has the same model, task and sample. Remove one"
    if file.read_bytes() == twin.read_bytes():
        return f"{twin} is this record. It is published already, so there is nothing to submit"
    return (
        f"{twin} is published and has the same model, task and sample. To correct it, replace its two files, "
        f"and commit them in the clone"
    )


def _results(record: Record) -> list[tuple[object, ...]]:
    """Return what identifies the result of each task. Outputs made elsewhere go by their name and note."""
    adapter = record.adapter.digest if record.adapter else None
    model = (record.base.digest or (record.base.name, record.base.note), adapter)
    sample = (record.sample.split, record.sample.limit, record.sample.seed)
    how = (record.engine.name, record.engine.dtype, str(sorted(record.decoding.items())))
    return [(*model, *sample, *how, name, task.version) for name, task in record.tasks.items()]
