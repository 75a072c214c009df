"""Finished parts of an evaluation on disk, from which an interrupted evaluation resumes."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from midalign.files import write_atomically
from midalign.record import TaskResult

FOLDER = ".partial"

Kind = TypeVar("Kind", bound=BaseModel)


class Output(BaseModel):
    """One answer with its prompt, as `--log-samples` writes it."""

    doc_id: int
    prompt: str
    output: str
    finish: str | None


class TaskPart(BaseModel):
    """One finished task of one model."""

    model_config = ConfigDict(extra="forbid")

    rendering: str
    """Digest of the task's prompts and settings (`rendering_digest`)."""
    result: TaskResult
    doc_ids: list[int]
    counts: list[list[int]]
    repeated: list[int]
    outputs: list[Output] | None
    comet: list[int] | None = None
    """COMET's scores in millionths, by item. They are not written here, since COMET has its own cache."""


class PartStore:
    """Finished parts of one model, in a folder named by the digest of everything that determines them."""

    def __init__(self, results: Path, decides: Mapping[str, Any]) -> None:
        text = json.dumps(decides, sort_keys=True)
        self.folder = results / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:20]

    def read(self, name: str, kind: type[Kind]) -> Kind | None:
        """Return a part by name, or None if it is missing or another version wrote it."""
        try:
            return kind.model_validate_json((self.folder / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def write(self, name: str, part: BaseModel) -> None:
        """Write a part atomically."""
        while not self.folder.is_dir():
            with suppress(FileNotFoundError):  # another run has just removed the empty parent
                self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{name}.json", part.model_dump_json().encode())

    def remove(self) -> None:
        """Remove the parts, and the folder of all runs if it is empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.parent.rmdir()
        except OSError:
            return  # it contains parts of another run, or does not exist
