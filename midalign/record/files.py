"""Read and write records, and protect existing ones."""

import hashlib
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from midalign.errors import RecordError, first_problem
from midalign.files import write_atomically
from midalign.record.conditions import Conditions, condition_differences, conditions_of
from midalign.record.item_counts import Items, pack_items, unpack_items
from midalign.record.models import ItemsFile, Record

SUFFIX = ".json"
ITEMS_SUFFIX = ".items.jsonl.zst"
LATEST = 2
"""Latest schema version."""
SHOWN = 4
"""Differences in one message."""


def read_record(path: str | Path) -> Record:
    """Read a record. Raises RecordError with the first problem."""
    path = Path(path)
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise RecordError(f"No record {path}") from error
    except ValidationError as error:
        newer = next((p["input"] for p in error.errors() if p["loc"] == ("schema_version",)), None)
        if isinstance(newer, int) and newer > LATEST:
            raise RecordError(
                f"{path} has schema_version {newer}. This midalign reads versions 1 to {LATEST}: update it "
                f"with pip install -U midalign"
            ) from error
        raise RecordError(
            f"{path} is not a record of schema version 1 or 2: {first_problem(error)}. "
            f"Restore it, or remove it and evaluate the model again with midalign eval"
        ) from error


def items_path(record: Path) -> Path:
    """Return the path of the items file that belongs to a record's file."""
    return record.with_name(record.name.removesuffix(SUFFIX) + ITEMS_SUFFIX)


def read_items(path: str | Path) -> dict[str, Items]:
    """Read the counts per item of the record at `path`, by task.

    Columns are in the order of the task's counts in the record. Raises RecordError if the items file is
    missing, is not the one that the record was written with, or does not hold one line per task with whole
    numbers from 0 to LARGEST_COUNT.
    """
    path = Path(path)
    entry = read_record(path)
    file = entry.items
    if file is None:
        raise RecordError(f"{path} names no items file. Evaluate the model again with midalign eval")
    if Path(file.file).name != file.file or file.file in ("", ".", ".."):
        raise RecordError(f"{path} names the items file {file.file!r}, which is not a file next to it")
    beside = path.parent / file.file
    try:
        packed = beside.read_bytes()
    except FileNotFoundError as error:
        raise RecordError(f"{beside} is missing. It belongs next to {path}") from error
    digest = hashlib.sha256(packed).hexdigest()
    if digest != file.sha256:
        raise RecordError(
            f"{beside} is not the file that {path.name} was written with: sha256 {digest[:12]}, expected "
            f"{file.sha256[:12]}. Restore it, or remove both and evaluate the model again with midalign "
            f"eval"
        )
    return unpack_items(beside, packed, entry)


def write_record(record: Record, items: Mapping[str, Items], folder: Path) -> Path:
    """Write `<name>.json` and `<name>.items.jsonl.zst` into `folder` and return the path of the first.

    Both are written atomically, and the record has the digest of its items file. Raises RecordError if the
    items do not belong to the record's tasks, or if an existing record of this name is newer or may not be
    replaced.
    """
    path = folder / (record.name + SUFFIX)
    refuse_to_replace(path, conditions_of(record))
    if path.is_file() and read_record(path).created > record.created:
        raise RecordError(
            f"{path} is newer than what would replace it. Write elsewhere (--output OTHER), or remove it "
            f"first: rm '{path}'"
        )
    if set(items) != set(record.tasks):
        raise RecordError(f"Items of {sorted(items)} for a record of {sorted(record.tasks)}")
    packed = pack_items(items, {task: list(result.counts) for task, result in record.tasks.items()})
    name = record.name + ITEMS_SUFFIX
    file = ItemsFile(file=name, sha256=hashlib.sha256(packed).hexdigest())
    text = record.model_copy(update={"items": file}).model_dump_json(indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, packed)
    write_atomically(path, text.encode())
    return path


def refuse_to_replace(path: Path, planned: Conditions) -> None:
    """Raise RecordError if `path` is a record that a planned result may not replace.

    A result may replace an older one of the same model under the same conditions, if it covers all of its
    tasks and conditions.
    """
    if not path.is_file():
        return
    existing = conditions_of(read_record(path))
    remedy = (
        f"It is not replaced. Write elsewhere (--output OTHER, or output=OTHER for midalign-train), "
        f"or remove it first: rm '{path}'"
    )
    if not set(existing.tasks) <= set(planned.tasks):
        others = ", ".join(sorted(existing.tasks)[:2])
        raise RecordError(f"{path} is a record of other tasks ({others}, ...). {remedy}")
    differences = list(condition_differences(existing, planned))
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise RecordError(
            f"{path} is a result under other conditions: {'; '.join(differences[:SHOWN])}{more}. {remedy}"
        )


def record_file_name(name: str) -> str:
    """Return a model's name in the characters of a record's name. A hub id keeps both parts.

    Names with letters outside ASCII end in a digest, which keeps them distinct.
    """
    name = unicodedata.normalize("NFC", name)
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._@=+-") else "-" for c in name)
    plain = kept.lstrip("._@=+-") or "unnamed"
    return plain if name.isascii() else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
