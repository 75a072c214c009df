"""Sample outputs of the page, as far as they were saved and the licence of their data allows it."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from midalign import harness
from midalign.data import own
from midalign.data.registry import data_set, republishable
from midalign.errors import TaskError
from midalign.escaping import plain_text
from midalign.families import family
from midalign.languages import ROLES
from midalign.leaderboard.load import Run
from midalign.leaderboard.sections import BoardRow, BoardSection
from midalign.record.outputs import SavedOutput, read_saved_outputs

PER_ROLE = 2
"""Languages per role with a sample."""
LONGEST_SAMPLE = 500
"""Characters of an input, a gold answer or an output."""


def row_samples(section: BoardSection, row: BoardRow) -> list[dict[str, Any]]:
    """Return the samples of a row: the first item of two languages per role, of its first run with outputs.

    Only outputs with their input and gold answer are shown. Raises RecordError as `read_saved_outputs`.
    """
    run = next((run for run in row.runs if run.outputs), None)
    if run is None or run.outputs is None:
        return []
    sources = {code: source for code in section.languages if (source := _source(run, code))}
    outputs = _first_outputs(run.outputs, {run.task_name(code) for code in sources})
    samples = []
    for role in ROLES:
        codes = [code for code in sources if section.role(code) == role and run.task_name(code) in outputs]
        for code in codes[:PER_ROLE]:
            first = outputs[run.task_name(code)]
            samples.append(
                {
                    "language": code,
                    "data": f"{sources[code]} ({data_set(sources[code]).LICENCE})",
                    "input": plain_text(first.input or "", LONGEST_SAMPLE),
                    "gold": plain_text(first.gold or "", LONGEST_SAMPLE),
                    "output": plain_text(first.output, LONGEST_SAMPLE),
                    "cut": first.finish == "length",
                }
            )
    return samples


def _source(run: Run, language: str) -> str | None:
    """Return the data set of a language's items, None if it may not be republished."""
    return _republishable_source(run.task_name(language), run.record.sample.split)


@cache
def _republishable_source(task: str, split: str) -> str | None:
    if own.is_own(task):
        return None
    try:
        metadata = harness.metadata(task)
    except TaskError:  # a task of another version
        return None
    source = family(metadata["family"]).origin(metadata, split)
    return source if republishable(source) else None


def _first_outputs(path: Path, tasks: Iterable[str]) -> dict[str, SavedOutput]:
    """Return the output with the lowest document number of each task."""
    wanted, first = set(tasks), dict[str, SavedOutput]()
    for output in read_saved_outputs(path):
        if output.task in wanted and output.input is not None and output.gold is not None:
            known = first.setdefault(output.task, output)
            if output.doc_id < known.doc_id:
                first[output.task] = output
    return first
