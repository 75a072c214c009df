"""Trust states of records, from the record and the log of verifications."""

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

Trust = Literal["verified", "checked", "self-reported", "altered"]
"""docs/results/submit.md says what each means. `load_runs` rejects altered records: no board shows them."""
MARKS: dict[Trust, str] = {"verified": "✓", "checked": "", "self-reported": "◇"}
_WEAKEST_FIRST: tuple[Trust, ...] = ("altered", "self-reported", "checked", "verified")


def trust_of(file: Path, record: Record) -> Trust:
    """Return the trust in a record: the outcome of the last rerun of this very file, if there was one.

    Raises RecordError for a malformed log next to the record.
    """
    log = file.parent / LOG
    verdict = _verdicts(log, log.stat().st_mtime_ns).get(file_sha256(file)) if log.is_file() else None
    if verdict == "verified":
        return "verified"
    if verdict == "altered":
        return "altered"
    declared = record.adapter is not None and record.adapter.manifest is None
    return "self-reported" if declared or record.engine.name == "external" else "checked"


def weakest(states: Iterable[Trust]) -> Trust:
    """Return the weakest of several states. A row of several records has this state."""
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
                f"{log}, line {number} was not written by midalign leaderboard verify. Restore the file, "
                f"or remove it"
            ) from error
    return verdicts
