"""What every update of a run consists of: a pure function of the recipe, known before the first update."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from midalign.train.recipe import Align


@dataclass(frozen=True)
class Step:
    """A batch, or one part of it, and the factor of its mean loss in the update."""

    kind: Literal["task", "pairs"]
    batch: int
    """Number of the task's batch, or of the pairs', from 0."""
    part: int = 0
    parts: int = 1
    weight: float = 1.0


Update = tuple[Step, ...]


def plan_updates(updates: int, align: Align | None) -> list[Update]:
    """Return the updates of an arm. All arms see the same `updates` batches of the task, in the same order.

    `align.alternate` decides how alignment takes part. `joint` adds its loss to that of every task batch.
    `micro` cuts both batches into parts that alternate within an update and have the same weight. `update`
    gives alignment updates of its own. These, and those of `align.first`, come on top of the task's.
    """
    if align is None:
        return [(Step("task", batch),) for batch in range(updates)]
    plan = list(_alone(round(align.first * updates), align))
    if not align.task:
        return [*plan, *_alone(updates, align, len(plan))]
    begun = len(plan)
    for batch in range(updates):
        weight = align.weight * min(1.0, (batch + 1) / max(align.rise * updates, 1e-9))
        if batch >= align.until * updates:
            plan.append((Step("task", batch),))
        elif align.alternate == "joint":
            plan.append((Step("task", batch), Step("pairs", begun + batch, weight=weight)))
        elif align.alternate == "micro":
            plan.append(tuple(_in_turn(batch, begun + batch, weight, align)))
        else:
            plan.append((Step("task", batch),))
            task, pairs = align.ratio
            if (batch + 1) % task == 0:
                cycle = begun + batch // task * pairs
                plan += [(Step("pairs", cycle + i, weight=weight),) for i in range(pairs)]
    return plan


def _alone(updates: int, align: Align, begun: int = 0) -> Iterator[Update]:
    for batch in range(begun, begun + updates):
        yield (Step("pairs", batch, weight=align.weight),)


def _in_turn(task_batch: int, pair_batch: int, weight: float, align: Align) -> Iterator[Step]:
    """Yield parts of the task's batch and of the pairs', each a mean over itself, averaged over all parts."""
    task, pairs = align.ratio
    tasks, alignments = task * align.cycles, pairs * align.cycles
    share = 1 / (tasks + alignments)
    for cycle in range(align.cycles):
        for part in range(task):
            yield Step("task", task_batch, cycle * task + part, tasks, share)
        for part in range(pairs):
            yield Step("pairs", pair_batch, cycle * pairs + part, alignments, share * weight)
