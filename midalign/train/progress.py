"""Progress of a training run, for its caller and for its log."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midalign.files import write_atomically

TRAINING_LOG = "training.jsonl"
"""File beside an adapter with a line per update and per measurement."""

Measures = dict[str, float | None]
"""Values by name, such as `slot_f1/de`, `slot_f1/aligned` and `gradient_cosine`. None if undefined."""


@dataclass(frozen=True)
class TrainProgress:
    """State of a run after an update."""

    arm: str
    seed: int
    update: int
    updates: int
    losses: dict[str, float]
    tokens_per_second: float


OnTrainProgress = Callable[[TrainProgress], None]


class TrainingLog:
    """Log in JSON lines, one per update and one per measurement."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        """Truncate the log at `path` after the update `resumed_at`, 0 for a new run."""
        self.path = path
        kept = [entry for entry in _entries(path) if 0 < resumed_at >= entry["update"]]
        write_atomically(path, "".join(f"{json.dumps(entry)}\n" for entry in kept).encode())

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @staticmethod
    def measures(path: Path) -> list[tuple[int, Measures]]:
        """Return (update, measures) of every measurement so far."""
        return [(entry["update"], entry["measures"]) for entry in _entries(path) if "measures" in entry]

    @staticmethod
    def training(path: Path, update: int) -> tuple[dict[str, float], int]:
        """Return the last losses by name up to an update, and the tokens seen until then."""
        losses, tokens = dict[str, float](), 0
        for entry in _entries(path):
            if "losses" in entry and entry["update"] <= update:
                losses |= entry["losses"]  # an update of pairs alone has no task loss
                tokens = entry["tokens"]
        return losses, tokens


def _entries(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a log. An interrupted run may have left an incomplete one."""
    entries = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
