"""Files of outputs next to a record: each answer with its input and the gold answer.

Records are complete without them. Outputs quote the data, so those of data that may not be republished are in
a file of their own, which is neither committed nor published.
"""

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from midalign.errors import RecordError, first_problem

OUTPUTS_SUFFIX = ".outputs.jsonl.zst"
PRIVATE_OUTPUTS_SUFFIX = ".private-outputs.jsonl.zst"
"""Suffix of the outputs that may not be published. Git ignores such files."""


class SavedOutput(BaseModel):
    """One line of a file of outputs."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    task: str
    doc_id: int
    output: str
    finish: str | None = None
    input: str | None = None
    """The text to work on. None in older files."""
    gold: str | None = None
    """The right answer. None in older files."""


def pack_outputs(outputs: Iterable[SavedOutput]) -> bytes:
    """Return a compressed file of outputs, one JSON line per answer."""
    lines = (json.dumps(output.model_dump(), ensure_ascii=False) + "\n" for output in outputs)
    return zstandard.ZstdCompressor(level=19).compress("".join(lines).encode())


def read_saved_outputs(path: Path) -> Iterator[SavedOutput]:
    """Yield the outputs of a file line by line. Raises RecordError for a file that cannot be read."""
    again = "Restore it, or remove it: a board is built without it, too"
    try:
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as packed:
            for number, line in enumerate(io.TextIOWrapper(packed, "utf-8"), start=1):
                try:
                    yield SavedOutput.model_validate_json(line)
                except ValidationError as error:
                    problem = first_problem(error, whole="the line")
                    raise RecordError(f"{path}, line {number}: {problem}. {again}") from error
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} is not zstd-compressed text ({error}). {again}") from error
