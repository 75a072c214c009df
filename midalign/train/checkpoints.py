"""Checkpoints of a training run, each with the digests of all its files.

If a checkpoint lacks its optimizer, scheduler or random states, Trainer silently resumes with fresh ones. A
checkpoint is therefore valid only if SEAL lists its files and these are unchanged.
"""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from midalign.files import write_atomically

if TYPE_CHECKING:
    from midalign.train.trainer import AlignmentTrainer

log = logging.getLogger(__name__)

SEAL = "files.json"
"""File of a checkpoint with the sha256 of every other file by its path."""


class SealCheckpoints(TrainerCallback):
    """Seals each checkpoint once all processes have written their files."""

    def __init__(self, trainer: "AlignmentTrainer", work: Path) -> None:
        self.trainer, self.work = trainer, work

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Seal the checkpoint that Trainer has just written."""
        self.trainer.accelerator.wait_for_everyone()
        if self.trainer.is_world_process_zero():
            seal_checkpoint(self.work / f"checkpoint-{state.global_step}")


def seal_checkpoint(checkpoint: Path) -> None:
    """Write the digests of a complete checkpoint's files to SEAL."""
    write_atomically(checkpoint / SEAL, json.dumps(_digests(checkpoint), indent=1).encode())


def last_intact_checkpoint(work: Path) -> str | None:
    """Return the newest intact checkpoint, None if there is none.

    Damaged checkpoints are removed, with a warning that names the first wrong file.
    """
    steps = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(steps):
        damage = _damage(checkpoint)
        if damage is None:
            log.warning(
                "Training resumes after update %d, from %s", checkpoint_update(str(checkpoint)), checkpoint
            )
            return str(checkpoint)
        log.warning("%s is removed, because %s", checkpoint, damage)
        shutil.rmtree(checkpoint, ignore_errors=True)
    if steps:
        log.warning("%s has no intact checkpoint: training starts from the beginning", work)
    return None


def checkpoint_update(checkpoint: str | None) -> int:
    """Return the number of updates before a checkpoint, 0 without a checkpoint."""
    return int(checkpoint.rpartition("-")[2]) if checkpoint else 0


def _damage(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if nothing is."""
    try:
        sealed = json.loads((checkpoint / SEAL).read_text("utf-8"))
    except FileNotFoundError:
        return f"it is incomplete: it has no {SEAL}"
    except ValueError:
        return f"its {SEAL} is not JSON"
    digests = _digests(checkpoint)
    missing = next((name for name in sealed if name not in digests), None)
    if missing:
        return f"{missing} is missing"
    changed = next((name for name, digest in sealed.items() if digests[name] != digest), None)
    return f"{changed} has changed" if changed else None


def _digests(checkpoint: Path) -> dict[str, str]:
    """Return the sha256 of every file of a checkpoint except SEAL, by its path in the checkpoint."""
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not path.name.startswith(SEAL):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[path.relative_to(checkpoint).as_posix()] = digest
    return digests
