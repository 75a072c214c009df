"""What a run has finished so far, on disk, so that a killed evaluation goes on where it was."""

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
    """One answer as `--log-samples` keeps it."""

    doc_id: int
    prompt: str
    output: str
    finish: str | None


class Part(BaseModel):
    """One finished task of one model."""

    model_config = ConfigDict(extra="forbid")

    rendering: str
    """Digest of what the task asks and how."""
    result: TaskResult
    doc_ids: list[int]
    counts: list[list[int]]
    repeated: list[int]
    outputs: list[Output] | None
    comet: list[int] | None = None
    """COMET's scores in millionths, by item; never on disk here, since they have a cache of their own."""


class Store:
    """Finished parts of one model's evaluation, in a folder named by all that decides its outcome."""

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
        """Keep a part; it appears whole or not at all."""
        while not self.folder.is_dir():
            with suppress(FileNotFoundError):  # another run has removed the empty parent in between
                self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{name}.json", part.model_dump_json().encode())

    def remove(self) -> None:
        """Drop the parts once their record is written, and the folder of all runs when it is empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.parent.rmdir()
        except OSError:
            return  # another run's parts are there, or nothing ever was
