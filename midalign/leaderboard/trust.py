"""The trust that a record deserves, from the record itself and from the log of verifications next to it."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from midalign.errors import RecordError
from midalign.record import Record

LOG = "verifications.jsonl"
"""File next to the records with the outcomes of their reruns, written by `midalign leaderboard verify`."""

Trust = Literal["verified", "checked", "self-reported"]
"""docs/results/submit.md says what each means."""
MARKS: dict[Trust, str] = {"verified": "✓", "checked": "", "self-reported": "◇"}
_WEAKEST_FIRST: tuple[Trust, ...] = ("self-reported", "checked", "verified")


def trust_of(file: Path, record: Record) -> Trust:
    """Return the trust in a record: `verified` if the last rerun of this very file confirmed it.

    Raises RecordError for a malformed log next to the record.
    """
    log = file.parent / LOG
    if log.is_file() and _verdicts(log, log.stat().st_mtime_ns).get(file_sha256(file)) == "verified":
        return "verified"
    declared = record.adapter is not None and record.adapter.manifest is None
    return "self-reported" if declared or record.engine.name == "external" else "checked"


def weakest(states: Iterable[Trust]) -> Trust:
    """Return the weakest of several states, which a row of several records has."""
    return min(states, key=_WEAKEST_FIRST.index)


def file_sha256(file: Path) -> str:
    """Return the digest of a record's file, which holds the digest of its items."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def _verdicts(log: Path, _changed: int) -> dict[str, str]:
    """Return the last verdict by digest of the record. The time of the change keeps the cache current."""
    verdicts = {}
    for number, line in enumerate(log.read_text("utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            verdicts[str(entry["sha256"])] = str(entry["verdict"])
        except (ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{log}, line {number} is no outcome of midalign leaderboard verify. Restore the file, "
                f"or remove it"
            ) from error
    return verdicts
