"""The stream of batches: what stands in update u is a pure function of the seed and u."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset

from midalign.align.head import IGNORED
from midalign.align.rows import common_prefix, lay_out, word_mask
from midalign.train.samples import Sample
from midalign.train.schedule import Step, Update
from midalign.train.sentence_pairs import Pair, PairSamples
from midalign.train.task_samples import TaskSamples, epoch_positions

Batch = dict[str, torch.Tensor]

T = TypeVar("T")

KINDS = ("task", "copy", "text")
"""What samples are for: the task, a sentence to repeat, a sentence to predict."""


def answers(
    groups: Mapping[str, Sequence[Sample]], weights: Sequence[float], pad: int, width: int | None
) -> Batch:
    """Lay out samples by kind in rows, with the labels of their answers.

    Args:
        weights: of every sample, kind after kind: what each of its labels counts.
        width: of packed rows, as in `lay_out`.

    Returns:
        `input_ids`, `position_ids`, `owner` as in Rows; `labels` (rows, width), at each position the token
        that should come next or IGNORED; `weights` (rows, width), fp32; `kinds` (rows,), places in KINDS.
    """
    samples = [sample for group in groups.values() for sample in group]
    shared = [common_prefix([s.prompt for s in group]) if group else 0 for group in groups.values()]
    rows = lay_out([[s.prompt + s.target for s in g] for g in groups.values()], shared, pad, width)
    labels = torch.full_like(rows.input_ids, IGNORED)
    counts = torch.zeros(labels.shape)
    kind_of = [KINDS.index(kind) for kind, group in groups.items() for _ in group]
    kinds = torch.zeros(len(labels), dtype=torch.long)
    for row, owner in enumerate(rows.owner.tolist()):
        for member in dict.fromkeys(one for one in owner if one >= 0):
            sample = samples[member]
            # Its tokens stand together: the last of them is the last of the answer.
            end = len(owner) - owner[::-1].index(member)
            where = slice(end - len(sample.target) - 1, end - 1)
            labels[row, where] = torch.tensor(sample.target)
            counts[row, where] = weights[member]
            kinds[row] = kind_of[member]
    return {**vars(rows), "labels": labels, "weights": counts, "kinds": kinds}


class Stream(Dataset[dict[str, Any]]):
    """Updates in order, each a pure function of the seed and its number, in this process's share.

    An update is a dict: `answers`, where it has samples (the function of that name); `pairs`, its contrastive
    batches (`contrastive`); `tokens`, those of its samples and sentences in all processes.
    """

    def __init__(
        self,
        seed: int,
        plan: Sequence[Update],
        task: TaskSamples,
        aligned: PairSamples | None,
        *,
        width: int | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.seed, self.plan, self.task, self.aligned = seed, plan, task, aligned
        self.width, self.rank, self.world = width, rank, world
        self.pad: int = task.tokens.tokenizer.pad_token_id

    def __len__(self) -> int:
        return len(self.plan)

    def prepare(self) -> None:
        """Render and tokenize all task samples of the plan at once."""
        last = max((step.batch for update in self.plan for step in update if step.kind == "task"), default=-1)
        count = (last + 1) * self.task.recipe.samples_per_update
        self.task.prepare(epoch_positions(self.seed, 0, count, len(self.task)))

    def __getitem__(self, update: int) -> dict[str, Any]:
        groups: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
        weights: dict[str, list[float]] = {kind: [] for kind in KINDS}
        made: dict[str, Any] = {"pairs": [], "tokens": 0}
        # A copy counts as much as a task sample, whatever weight the schedule gives the task.
        of_task = sum(step.weight for step in self.plan[update] if step.kind == "task") or 1.0
        for step in self.plan[update]:
            if step.kind == "task":
                parts = {"task": (self.task.samples(self.seed, step.batch), step.weight)}
            else:
                assert self.aligned is not None
                drawn = self.aligned.draw(self.seed, step.batch)
                made["pairs"].append(self.contrastive(_part(drawn, step), step.weight, self.rank, self.world))
                made["tokens"] += made["pairs"][-1].pop("tokens")
                extra = {"copy": self.aligned.copies(drawn), "text": self.aligned.texts(drawn)}
                size = self.task.recipe.samples_per_update * step.parts
                parts = {kind: (samples, of_task * len(samples) / size) for kind, samples in extra.items()}
            for kind, (samples, factor) in parts.items():
                of_step = _part(samples, step)
                labels = sum(len(sample.target) for sample in of_step)
                own = _share(of_step, self.rank, self.world)
                groups[kind] += own
                weights[kind] += [factor / labels] * len(own) if labels else []
                made["tokens"] += labels + sum(len(sample.prompt) for sample in of_step)
        if any(groups.values()):
            flat = [weight for kind in KINDS for weight in weights[kind]]
            made["answers"] = answers(groups, flat, self.pad, self.width)
        return made

    def describe(self, update: int) -> str:
        """Describe the content of an update: its documents, and the first pair."""
        found = []
        for step in self.plan[update]:
            if step.kind == "task":
                size = self.task.recipe.samples_per_update
                where = epoch_positions(self.seed, step.batch * size, size, len(self.task))
                found.append(f"training documents {', '.join(map(str, sorted(_part(where, step))))}")
            elif self.aligned is not None:
                pair = _part(self.aligned.draw(self.seed, step.batch), step)[0]
                found.append(f"pairs from {pair.foreign!r} on")
        return "; ".join(found)

    def contrastive(
        self, drawn: Sequence[Pair], weight: float, rank: int = 0, world: int = 1
    ) -> dict[str, Any]:
        """Return rows of this process's foreign sentences, then their other sides, bare or in the prompt.

        `words` (rows, width) marks the tokens that means are taken over. In a prompt they begin with the
        sentence. For the pairs of all processes, `same` (pairs, pairs) marks those with the same meaning, and
        `languages` (pairs,) are positions in the recipe's order.
        """
        assert self.aligned is not None
        in_prompt = self.aligned.align.context == "prompt"
        ids_of = self.task.prompt_ids if in_prompt else self.task.tokens.sentence
        sides = [[ids_of(pair.sides[side]) for pair in drawn] for side in (0, 1)]
        own = [ids for side in sides for ids in _share(side, rank, world)]
        if in_prompt:
            start = common_prefix([*sides[0], *sides[1]])
        else:
            before, _ = self.task.tokens.added
            start = before if all(len(ids) > before for ids in own) else 0
        rows = lay_out([own], [start], self.pad, self.width)
        same = [[not {*one.sides}.isdisjoint(other.sides) for other in drawn] for one in drawn]
        return {
            "rows": {**vars(rows), "words": word_mask(rows, max(start, self.task.tokens.sink))},
            "same": torch.tensor(same),
            "languages": torch.tensor([pair.language for pair in drawn]),
            "weight": weight,
            "tokens": sum(len(ids) for side in sides for ids in side),
        }


def _part(items: Sequence[T], step: Step) -> Sequence[T]:
    """Return the step's part of a batch."""
    bounds = [len(items) * i // step.parts for i in (step.part, step.part + 1)]
    return items[slice(*bounds)]


def _share(items: Sequence[T], rank: int, world: int) -> Sequence[T]:
    """Return the part of a batch that this process computes."""
    return items[len(items) * rank // world : len(items) * (rank + 1) // world]
