"""The content of every update of a run, planned before training from the recipe alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from midalign.train.recipe import Align


@dataclass(frozen=True)
class Step:
    """A batch or a part of it, with the weight of its mean loss in the update."""

    kind: Literal["task", "pairs"]
    batch: int
    """Index of the batch among those of its kind."""
    part: int = 0
    parts: int = 1
    weight: float = 1.0


Update = tuple[Step, ...]


def plan_updates(updates: int, align: Align | None) -> list[Update]:
    """Return the updates of an arm. All arms see the same `updates` batches of the task, in the same order.

    `align.alternate` decides how task and alignment combine. `joint` adds both losses in every update.
    `micro` alternates equally weighted parts of both batches within an update. `update` alternates updates.
    Updates of alignment alone, including those of `align.first`, are added to the task's.
    """
    if align is None:
        return [(Step("task", batch),) for batch in range(updates)]
    plan = list(_alone(round(align.first * updates), align))
    if not align.task:
        return [*plan, *_alone(updates, align, len(plan))]
    pair_batches = len(plan)
    for batch in range(updates):
        weight = align.weight * min(1.0, (batch + 1) / max(align.rise * updates, 1e-9))
        if batch >= align.until * updates:
            plan.append((Step("task", batch),))
        elif align.alternate == "joint":
            plan.append((Step("task", batch), Step("pairs", pair_batches + batch, weight=weight)))
        elif align.alternate == "micro":
            plan.append(tuple(_alternate_parts(batch, pair_batches + batch, weight, align)))
        else:
            plan.append((Step("task", batch),))
            task, pairs = align.ratio
            if (batch + 1) % task == 0:
                first = pair_batches + batch // task * pairs
                plan += [(Step("pairs", first + i, weight=weight),) for i in range(pairs)]
    return plan


def _alone(updates: int, align: Align, first: int = 0) -> Iterator[Update]:
    for batch in range(first, first + updates):
        yield (Step("pairs", batch, weight=align.weight),)


def _alternate_parts(task_batch: int, pair_batch: int, weight: float, align: Align) -> Iterator[Step]:
    """Yield parts of both batches in turn. The loss is the average of the parts' mean losses."""
    task, pairs = align.ratio
    tasks, alignments = task * align.cycles, pairs * align.cycles
    share = 1 / (tasks + alignments)
    for cycle in range(align.cycles):
        for part in range(task):
            yield Step("task", task_batch, cycle * task + part, tasks, share)
        for part in range(pairs):
            yield Step("pairs", pair_batch, cycle * pairs + part, alignments, share * weight)
