"""Reference rows of the page: answers that no model gave, such as a copy of the source, and upper bounds."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from midalign.errors import MidalignError, first_problem
from midalign.leaderboard.sections import BoardRow, BoardSection, code_role

UPPER_BOUND = "supervised upper bound"
"""Title of the reference rows of models that were trained on labels of all evaluated languages."""
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


def is_upper_bound(section: BoardSection, row: BoardRow) -> bool:
    """Return whether a row's adapters were trained on labels of every evaluated language of this very task.

    A task in English alone has no upper bound, because every model is trained on English labels. Adapters
    without a manifest do not say which task they were trained on.
    """
    if section.languages == ["en"]:
        return False
    manifests = [run.record.adapter.manifest if run.record.adapter else None for run in row.runs]
    for manifest in manifests:
        texts = (manifest.training_text if manifest else None) or []
        labelled = {
            code
            for text in texts
            if (text.kind, text.source) == ("task", section.group)
            for code in text.languages
        }
        if not all(code_role(code, labelled, ()) == "supervised" for code in section.languages):
            return False
    return True
