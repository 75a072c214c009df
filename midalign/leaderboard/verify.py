"""Answer items of a record again, and decide whether the record was altered."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from midalign.adapter import package_versions
from midalign.errors import EngineError, MidalignError
from midalign.evaluate.rerun import open_rerun, planned_rerun, scratch_folder
from midalign.evaluate.settings import EvalReporter, EvalSettings
from midalign.evaluate.thoughts import BUDGET
from midalign.files import write_atomically
from midalign.leaderboard.decision import FURTHER, TOLERANCES, RerunRule
from midalign.leaderboard.load import runs_of_file
from midalign.leaderboard.trust import LOG, file_sha256
from midalign.metrics import scorer
from midalign.record import Conditions, Items, Record, conditions_of, read_items, read_record
from midalign.record.conditions import GPU, condition_differences
from midalign.reporting import ignore_progress

if TYPE_CHECKING:
    from midalign.device import Dtype

NOT_STATED = -1
"""Count in a column that a record lacks, since it is older than the column."""

Verdict = Literal["verified", "altered", "not verifiable"]
Documents = Mapping[str, list[int]]
"""Document ids by task."""


@dataclass(frozen=True)
class Verification:
    """The outcome of a rerun."""

    file: Path
    verdict: Verdict
    reason: str
    items: int = 0
    """Number of items that were answered again."""
    differing: tuple[tuple[str, int], ...] = ()
    """Task and document id of items with other counts."""
    seed: int = 0
    """Seed of the draw."""


def verify_record(
    file: Path,
    count: int,
    seed: int,
    *,
    base: str | None = None,
    adapter: Path | None = None,
    report: EvalReporter = ignore_progress,
) -> Verification:
    """Answer `count` random items of a record again, more in doubt, and compare their counts.

    Args:
        file: a record.
        count: items of the first stage, see `midalign.leaderboard.decision`.
        seed: seed of the draw. A forger must not know it beforehand.
        base: folder or hub id of the base if the record's name does not find it.
        adapter: folder of the adapter, for a record of an adapter.
        report: callback for progress.

    Raises RecordError for a record whose figures do not follow from its items.
    """
    from midalign.device import fixed_dtype

    list(runs_of_file(file, file.name))
    record, items = read_record(file), read_items(file)
    obstacle = _obstacle(record, adapter)
    if obstacle:
        return Verification(file, "not verifiable", obstacle)
    dtype: Dtype = "float32" if record.engine.dtype == "float32" else "bfloat16"
    with scratch_folder() as folder, fixed_dtype(dtype):
        try:
            plan, planned = planned_rerun(settings_of_record(record, folder, base, adapter))
            stated = _rerun_conditions(conditions_of(record))
            differences = list(condition_differences(stated, _rerun_conditions(planned)))
            if differences:
                return Verification(file, "not verifiable", "; ".join(differences))
        except (MidalignError, OSError) as error:
            return Verification(file, "not verifiable", str(error))
        ordered, rule = items_in_column_order(record, items), RerunRule(TOLERANCES[dtype])
        try:
            with open_rerun(plan, report) as rerun:
                return replace(compare_answers(ordered, rerun, rule, count, seed), file=file)
        except EngineError as error:
            return Verification(file, "not verifiable", str(error))


def compare_answers(
    items: Mapping[str, Items],
    rerun: Callable[[Documents], Mapping[str, np.ndarray]],
    rule: RerunRule,
    count: int,
    seed: int,
) -> Verification:
    """Return the outcome of the two stages. `rerun` returns counts as `evaluate.rerun.Rerun` does."""
    places = [(task, int(doc_id)) for task, of_task in items.items() for doc_id in of_task.doc_ids]
    order = np.random.default_rng(seed).permutation(len(places))[: (1 + FURTHER) * count]
    differing: list[tuple[str, int]] = []
    answered = 0
    for stage in (order[:count], order[count:]):
        drawn: dict[str, list[int]] = {}
        for task, doc_id in sorted(places[place] for place in stage):
            drawn.setdefault(task, []).append(doc_id)
        differing += _differing(items, rerun(drawn), drawn) if drawn else []
        answered += len(stage)
        if rule.passes_first(answered, len(differing)) or rule.is_altered(answered, len(differing)):
            break
    altered = rule.is_altered(answered, len(differing))
    reason = f"{len(differing)} of {answered} items differ. At most {rule.bound(answered)} may"
    return Verification(
        Path(), "altered" if altered else "verified", reason, answered, tuple(sorted(differing)), seed
    )


def _differing(
    items: Mapping[str, Items], counts: Mapping[str, np.ndarray], drawn: Documents
) -> list[tuple[str, int]]:
    """Return the drawn items whose new counts differ from those of the record."""
    differing = []
    for task, doc_ids in drawn.items():
        order = np.argsort(items[task].doc_ids)
        rows = order[np.searchsorted(items[task].doc_ids, doc_ids, sorter=order)]
        stated = items[task].counts[rows]
        differs = ((stated != counts[task]) & (stated != NOT_STATED)).any(axis=1)
        differing += [(task, doc_id) for doc_id, other in zip(doc_ids, differs, strict=True) if other]
    return differing


def _obstacle(record: Record, adapter: Path | None) -> str:
    """Return why the record cannot be verified here, or an empty text."""
    if record.engine.name == "external":
        return "The outputs were made elsewhere"
    if record.engine.dtype not in TOLERANCES:
        return (
            f"No tolerance was measured for dtype {record.engine.dtype!r}, only for {', '.join(TOLERANCES)}"
        )
    for name, task in record.tasks.items():
        if not set(task.counts) <= set(scorer(task.family).COLUMNS):
            return f"{name} has counts of a newer version of midalign"
    if record.adapter and adapter is None:
        return f"The adapter {record.adapter.name} is not here. Give its folder: --adapter FOLDER"
    if adapter and not record.adapter:
        return "The record is that of a base. Remove --adapter"
    return ""


def settings_of_record(record: Record, output: Path, base: str | None, adapter: Path | None) -> EvalSettings:
    """Return the settings that a record's evaluation had."""
    how: dict[str, Any] = dict(record.decoding)
    return EvalSettings(
        base=base or record.base.name,
        tasks=tuple(record.tasks),
        output=output,
        adapters=(adapter,) if adapter else (),
        adapters_only=adapter is not None,
        engine="vllm" if record.engine.name == "vllm" else "hf",
        batch_invariant=record.engine.batch_invariant,
        split="validation" if record.sample.split == "validation" else "test",
        limit=record.sample.limit,
        note=record.base.note,
        num_fewshot=how.get("num_fewshot", 0),
        wording=how.get("wording", 1),
        apply_chat_template=how.get("apply_chat_template", False),
        system_instruction=how.get("system_instruction"),
        think_end_token=how.get("think_end_token"),
        max_thinking_tokens=how.get("max_thinking_tokens", BUDGET),
        enable_thinking=how.get("enable_thinking"),
        constrained=how.get("regime", "free") == "constrained",
    )


def _rerun_conditions(conditions: Conditions) -> Conditions:
    """Return the conditions of a rerun: it computes no COMET scores, and may run on another GPU."""
    return replace(
        conditions,
        shared={name: value for name, value in conditions.shared.items() if name != GPU},
        tasks={name: {**task, "COMET": None} for name, task in conditions.tasks.items()},
    )


def items_in_column_order(record: Record, items: Mapping[str, Items]) -> dict[str, Items]:
    """Return the items with the columns of their families, in the order of a rerun.

    Columns that are newer than the record are NOT_STATED.
    """
    ordered = {}
    for name, task in record.tasks.items():
        columns, stated = list(task.counts), items[name].counts
        counts = np.full((len(stated), len(scorer(task.family).COLUMNS)), NOT_STATED, stated.dtype)
        for place, column in enumerate(scorer(task.family).COLUMNS):
            if column in columns:
                counts[:, place] = stated[:, columns.index(column)]
        ordered[name] = replace(items[name], counts=counts)
    return ordered


def log_verification(outcome: Verification) -> Path:
    """Append an outcome to `verifications.jsonl` next to the record, and return its path."""
    path = outcome.file.parent / LOG
    line = {
        "record": outcome.file.stem,
        "sha256": file_sha256(outcome.file),
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "items": outcome.items,
        "differing": len(outcome.differing),
        "seed": outcome.seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "packages": package_versions(),
    }
    before = path.read_bytes() if path.is_file() else b""
    write_atomically(path, before + json.dumps(line).encode() + b"\n")
    return path
