"""What a training run tells: to its caller after every update, and to its log."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINING_LOG = "training.jsonl"
"""Beside an adapter, a line for every update and every measurement of its training."""

Measures = dict[str, float | None]
"""By name, such as `slot_f1/de`, `slot_f1/aligned` and `gradient_cosine`; None where there is no case."""


@dataclass(frozen=True)
class TrainProgress:
    """Where a run stands, told after every update."""

    arm: str
    seed: int
    update: int
    updates: int
    losses: dict[str, float]
    tokens_per_second: float


OnTrainProgress = Callable[[TrainProgress], None]


class TrainingLog:
    """JSON lines, one an update and one a measurement; what a resumed run does again is dropped first."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        """Go on at `path` after the update `resumed_at`; 0 begins anew."""
        self.path = path
        kept = [entry for entry in _entries(path) if 0 < resumed_at >= entry["update"]]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{json.dumps(entry)}\n" for entry in kept), "utf-8")
        os.replace(partial, path)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @staticmethod
    def measures(path: Path) -> list[tuple[int, Measures]]:
        """(update, measures) of every measurement so far."""
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
    """Return a log's whole lines: the last one may have been cut when its process was killed."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
