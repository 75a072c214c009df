"""Review records that are submitted to a board: checks, conflicts, and differences from the baselines.

`midalign leaderboard submit` prepares a pull request, and `midalign leaderboard review` reads one. Both call
`review_change`.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from midalign.errors import MidalignError, RecordError
from midalign.files import write_atomically
from midalign.leaderboard.check import RecordCheck, check_records
from midalign.leaderboard.compare import Difference, row_difference
from midalign.leaderboard.load import Run, record_paths, runs_of_file
from midalign.leaderboard.page.models import model_title
from midalign.leaderboard.row_pairs import RowPair, pair_rows
from midalign.leaderboard.sections import BoardRow, BoardSection, group_runs
from midalign.leaderboard.statistics import bootstrap
from midalign.leaderboard.trust import file_sha256
from midalign.record import ITEMS_SUFFIX, Base, Record, items_path, read_record, record_file_name

RESULTS = "leaderboard/results"
"""Folder of the records in the board's repository."""
MOST_REFERENCES = 6
"""Baselines that a submitted model is compared with in one group of tasks."""
LONGEST_NAME = 40
"""Characters of a model's name in the name of a folder."""


@dataclass(frozen=True)
class BoardChange:
    """The records of a board before and after a proposed change, by their path below RESULTS."""

    published: Mapping[str, Path]
    proposed: Mapping[str, Path]
    """The same files where nothing changes."""
    problems: tuple[str, ...] = ()
    """Files that must not be among the records."""
    other_files: tuple[str, ...] = ()
    """Files elsewhere that change too."""
    logs: tuple[str, ...] = ()
    """Logs of verifications that change."""

    @property
    def submitted(self) -> list[str]:
        """Records that are added or changed."""
        return [name for name, file in self.proposed.items() if self.published.get(name) != file]

    @property
    def removed(self) -> list[str]:
        """Records that are no longer there."""
        return [name for name in self.published if name not in self.proposed]

    @property
    def kept(self) -> dict[str, Path]:
        """Published records that stay as they are."""
        return {name: file for name, file in self.published.items() if self.proposed.get(name) == file}


@dataclass(frozen=True)
class BaselineDifference:
    """A submitted model minus a baseline or base, on the items that both have."""

    model: str
    reference: str
    published: bool
    """True if the reference is on the board, False if it is submitted as well."""
    pair: RowPair
    difference: Difference


@dataclass(frozen=True)
class ChangeReview:
    """The outcome of a review."""

    change: BoardChange
    checks: list[RecordCheck]
    """In the order of `change.submitted`."""
    problems: list[str]
    """Reasons for a rejection that concern no single record."""
    notes: list[str]
    runs: list[Run]
    """Runs of the records that pass."""
    differences: list[BaselineDifference]

    @property
    def failed(self) -> bool:
        """True if the change must not be merged."""
        return bool(self.problems) or any(check.failed for check in self.checks)

    @cached_property
    def names(self) -> dict[Path, str]:
        """Path below RESULTS of each submitted file."""
        return {self.change.proposed[name]: name for name in self.change.submitted}


def new_submission(files: Sequence[Path], board: Path | None) -> BoardChange:
    """Return the change of a board that adds records in a folder of their own.

    Args:
        files: record files.
        board: clone of the board's repository. None: an empty board.

    Raises MidalignError for a folder that is not a clone, for two records of one name, and for records that
    the board has in such a folder already.
    """
    by_name: dict[str, Path] = {}
    for file in (file.absolute() for file in files):
        if file.name in by_name:
            raise RecordError(
                f"{by_name[file.name]} and {file} have the same name. Submit them separately, or evaluate "
                f"one of them under another name"
            )
        by_name[file.name] = file
    published: dict[str, Path] = {}
    if board is not None:
        results = board / RESULTS
        if not (board / ".git").exists() or not results.is_dir():
            raise MidalignError(
                f"{board} is not a clone of a board: expected a git repository with {RESULTS}. Clone it "
                f"first (git clone URL), or omit --board and choose an --output folder"
            )
        published = {file.relative_to(results).as_posix(): file for file in record_paths(results)}
    folder = submission_name(files)
    if f"{folder}/{files[0].name}" in published:
        raise RecordError(f"{board}/{RESULTS}/{folder} already has these records. Nothing to submit")
    return BoardChange(published, published | {f"{folder}/{name}": file for name, file in by_name.items()})


def submission_name(files: Sequence[Path]) -> str:
    """Return the name of a submission's folder: the first model and a digest of the records.

    It is a safe name of files and branches. The same records have the same name.
    """
    try:
        first = read_record(files[0])
        title = (
            first.recipe.name if first.recipe else first.adapter.name if first.adapter else first.base.name
        )
    except MidalignError:  # the check says what is wrong with it
        title = files[0].stem
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", record_file_name(title))[:LONGEST_NAME].strip("-") or "records"
    parts = sorted((file.name, file_sha256(file)) for file in files)
    return f"{plain}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def write_submission(review: ChangeReview, results: Path) -> list[Path]:
    """Write the submitted records and their items files below `results`, and return the paths."""
    written = []
    for name in review.change.submitted:
        source = review.change.proposed[name]
        target = results / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Items first, so that no record exists without them.
        write_atomically(items_path(target), items_path(source).read_bytes())
        write_atomically(target, source.read_bytes())
        written += [items_path(target), target]
    return written


def review_change(change: BoardChange) -> ChangeReview:
    """Check the submitted records of a change, and compare them with the baselines of the same base and task.

    Raises RecordError if a published record is invalid.
    """
    kept = list(change.kept.values())
    checks = check_records([change.proposed[name] for name in change.submitted], published=kept)
    problems = list(change.problems)
    if change.submitted:
        problems += [
            f"{log} changes: only maintainers may write it. Commit it outside of a submission"
            for log in change.logs
        ]
    elif not change.removed and not change.logs and not problems:
        problems.append(f"No record of {RESULTS} is added, changed or removed")
    passed = {
        name: check.record
        for name, check in zip(change.submitted, checks, strict=True)
        if check.record and not check.failed
    }
    problems += [
        f"{name}: its items are in {record.items.file}, expected {record.name}{ITEMS_SUFFIX}"
        for name, record in passed.items()
        if record.items and record.items.file != record.name + ITEMS_SUFFIX
    ]
    runs = _load(change.proposed, passed)
    related = _load(change.kept, _same_base(change.kept, [record.base for record in passed.values()]))
    differences: list[BaselineDifference] = []
    try:
        group_runs([*related, *runs])  # a board with these records can be built
        differences = list(_differences(group_runs(runs), group_runs(related)))
    except RecordError as error:
        problems.append(
            f"The board cannot hold these records: {error}. To correct a published record, replace its two "
            f"files in the clone"
        )
    return ChangeReview(change, checks, problems, _name_notes(change, passed), runs, differences)


def _load(files: Mapping[str, Path], names: Iterator[str] | Mapping[str, Record]) -> list[Run]:
    return [run for name in names for run in runs_of_file(files[name], name)]


def _same_base(files: Mapping[str, Path], bases: Sequence[Base]) -> Iterator[str]:
    """Yield the records on one of the bases. Only these may share a table with the submitted ones."""
    names, digests = {base.name for base in bases}, {base.digest for base in bases} - {None}
    for name, file in files.items():
        base = read_record(file).base
        if base.name in names or base.digest in digests:
            yield name


def _name_notes(change: BoardChange, passed: Mapping[str, Record]) -> list[str]:
    """Return a note per submitted record that shares its name with a published record of another model."""
    notes = []
    published = {Path(name).stem: name for name in change.kept}
    for name, record in passed.items():
        twin = published.get(record.name)
        if twin and _models(record) != _models(read_record(change.kept[twin])):
            notes.append(
                f"{twin} is a published record of another model with the same name. The folder distinguishes "
                f"it from {name}"
            )
    return notes


def _models(record: Record) -> tuple[str | None, str | None]:
    return record.base.digest, record.adapter.digest if record.adapter else None


def _differences(
    submitted: Sequence[BoardSection], published: Sequence[BoardSection]
) -> Iterator[BaselineDifference]:
    """Yield the differences of every submitted row from the baselines and bases on the same items.

    If references share a name, keep the one with the fewest differing conditions.
    """
    rows = {_files(section, row): (section, row) for section in submitted for row in section.rows}
    references = [(section, row, True) for section in published for row in section.rows]
    references += [(section, row, False) for section in submitted for row in section.rows]
    for section, row in rows.values():
        pairs: dict[str, tuple[RowPair, bool]] = {}
        for other_section, other, on_board in references:
            if not _is_reference(section, row, other_section, other):
                continue
            for pair in pair_rows((model_title(row), model_title(other)), section, row, other):
                rival = pairs.get(pair.second)
                if rival is None or len(pair.other_conditions) < len(rival[0].other_conditions):
                    pairs[pair.second] = pair, on_board
        nearest = sorted(pairs.values(), key=lambda entry: len(entry[0].other_conditions))
        for pair, on_board in nearest[:MOST_REFERENCES]:
            first, second = pair.section.rows
            difference = row_difference(pair.section, first, second, bootstrap(pair.section))
            yield BaselineDifference(pair.first, pair.second, on_board, pair, difference)


def _files(section: BoardSection, row: BoardRow) -> tuple[str, ...]:
    return (section.group, *(run.file for run in row.runs))


def _is_reference(section: BoardSection, row: BoardRow, other_section: BoardSection, other: BoardRow) -> bool:
    """Return whether a row may be compared with another one: a base, or the baseline of some recipe."""
    base, other_base = section.first.record.base, other_section.first.record.base
    wanted = ("base",) if row.arm == "base" else ("base", "baseline")
    return (
        other.arm in wanted
        and other_section.group == section.group
        and (other_base.digest == base.digest if base.digest else other_base.name == base.name)
        and not set(_files(section, row)[1:]) & set(_files(other_section, other)[1:])
    )
