"""Answer some items of a finished evaluation again."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from midalign.evaluate.engine import open_engine, quiet_libraries
from midalign.evaluate.plan import EvalPlan, make_plan
from midalign.evaluate.scoring import answer_tasks, read_parts
from midalign.evaluate.settings import EvalReporter, EvalSettings
from midalign.record import Conditions
from midalign.reporting import ignore_progress

Rerun = Callable[[Mapping[str, Sequence[int]]], dict[str, np.ndarray]]
"""Takes document ids by task, and returns the counts of these items: (items, columns), in ascending order."""


def planned_rerun(settings: EvalSettings) -> tuple[EvalPlan, Conditions]:
    """Return the plan and the conditions of one model's evaluation. Raises as `make_plan` does."""
    with quiet_libraries():
        plan = replace(make_plan(settings), retrieval_tasks=[])
    (model,) = plan.models
    return plan, plan.conditions[model.name]


@contextmanager
def open_rerun(plan: EvalPlan, report: EvalReporter = ignore_progress) -> Iterator[Rerun]:
    """Yield a function that answers items of the plan again. It may be called several times."""
    (model,) = plan.models

    def rerun(documents: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        part = replace(
            plan,
            samples={task: sorted(ids) for task, ids in documents.items()},
            tasks={task: plan.tasks[task] for task in documents},
        )
        answer_tasks(part, [model], list(documents), engine, report)
        parts = read_parts(part, model)
        order = {task: np.argsort(parts[task].doc_ids, kind="stable") for task in documents}
        return {task: np.array(parts[task].counts, np.int64)[order[task]] for task in documents}

    with quiet_libraries(), open_engine(plan, plan.models) as engine:
        yield rerun


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder for the parts of a rerun, which disappears afterwards."""
    with tempfile.TemporaryDirectory(prefix="midalign-rerun-") as folder:
        yield Path(folder)
