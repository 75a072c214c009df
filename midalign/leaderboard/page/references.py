"""Reference rows of the page: scores of answers that no model gave, such as a copy of the source."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from midalign.errors import MidalignError, first_problem

FILE = "references.json"
"""Next to the board's README.md, written by scripts/benchmarks/trivial_answers.py."""


class ReferenceScores(BaseModel):
    """Scores of a reference on one task group: the main score by language, as a share."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    group: str
    version: float
    """The tasks' version. Scores are shown next to records of the same version only."""
    split: str
    scores: dict[str, Annotated[float, Field(ge=0, le=1)]]


class ReferenceRow(BaseModel):
    """A row of the page without a rank."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    groups: list[ReferenceScores]


class _ReferenceFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    references: list[ReferenceRow]


def read_references(output: Path) -> list[ReferenceRow]:
    """Return the reference rows next to a board, if there are any.

    Raises MidalignError for a wrong file.
    """
    path = output / FILE
    if not path.is_file():
        return []
    try:
        return _ReferenceFile.model_validate_json(path.read_bytes()).references
    except ValidationError as error:
        raise MidalignError(
            f"{path}: {first_problem(error)}. Write it again: "
            f"python scripts/benchmarks/trivial_answers.py --output {path}"
        ) from error
