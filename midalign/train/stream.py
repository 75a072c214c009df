"""Updates as tensors. An update is a pure function of the seed and its number."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset

from midalign.align.head import IGNORED
from midalign.align.rows import common_prefix_length, lay_out, word_mask
from midalign.train.samples import TokenizedSample
from midalign.train.schedule import Step, Update
from midalign.train.sentence_pairs import Pair, PairSamples
from midalign.train.switched_samples import SwitchedSamples
from midalign.train.task_samples import TaskSamples, epoch_positions

Batch = dict[str, torch.Tensor]

T = TypeVar("T")

KINDS = ("task", "copy", "text", "switched")
"""Kinds of samples: of the task, sentences to repeat or to predict, and code-switched ones of the task."""


def lay_out_answers(
    groups: Mapping[str, Sequence[TokenizedSample]], weights: Sequence[float], pad: int, width: int | None
) -> Batch:
    """Lay out samples in rows, kind after kind, with labels for their answers.

    Args:
        groups: samples by kind, in the order of KINDS.
        weights: per sample, kind after kind, the weight of each of its labels.
        pad: id of the padding token.
        width: width of packed rows in tokens, as in `lay_out`.

    Returns:
        `input_ids`, `position_ids` and `owner` as in `Rows`. `labels` (rows, width) is the next token at each
        position of an answer, IGNORED elsewhere. `weights` (rows, width) is fp32. `kinds` (rows,) are indices
        in KINDS.
    """
    samples = [sample for group in groups.values() for sample in group]
    shared = [common_prefix_length([s.prompt for s in group]) if group else 0 for group in groups.values()]
    rows = lay_out([[s.prompt + s.target for s in g] for g in groups.values()], shared, pad, width)
    labels = torch.full_like(rows.input_ids, IGNORED)
    counts = torch.zeros(labels.shape)
    kind_of = [KINDS.index(kind) for kind, group in groups.items() for _ in group]
    kinds = torch.zeros(len(labels), dtype=torch.long)
    for row, owner in enumerate(rows.owner.tolist()):
        for member in dict.fromkeys(number for number in owner if number >= 0):
            sample = samples[member]
            # A sample's tokens are contiguous and end with its answer. Labels are one position earlier.
            end = len(owner) - owner[::-1].index(member)
            where = slice(end - len(sample.target) - 1, end - 1)
            labels[row, where] = torch.tensor(sample.target)
            counts[row, where] = weights[member]
            kinds[row] = kind_of[member]
    return {**vars(rows), "labels": labels, "weights": counts, "kinds": kinds}


class Stream(Dataset[dict[str, Any]]):
    """This process's share of every update, in order.

    An update is a dict. `answers` is present if it has samples (see `lay_out_answers`). `pairs` lists its
    contrastive batches (see `contrastive`). `tokens` counts the tokens of all processes.
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

    @cached_property
    def switched(self) -> SwitchedSamples:
        """Code-switched task samples of the aligned languages."""
        assert self.aligned is not None
        return SwitchedSamples(self.task, self.aligned)

    def __len__(self) -> int:
        return len(self.plan)

    def prepare(self) -> None:
        """Render and tokenize all task samples of the plan."""
        last = max((step.batch for update in self.plan for step in update if step.kind == "task"), default=-1)
        count = (last + 1) * self.task.recipe.samples_per_update
        self.task.prepare(epoch_positions(self.seed, 0, count, len(self.task)))

    def __getitem__(self, update: int) -> dict[str, Any]:
        groups: dict[str, list[TokenizedSample]] = {kind: [] for kind in KINDS}
        weights: dict[str, list[float]] = {kind: [] for kind in KINDS}
        content: dict[str, Any] = {"pairs": [], "tokens": 0}
        # A copy counts as much as a task sample, whatever weight the schedule gives the task.
        task_weight = sum(step.weight for step in self.plan[update] if step.kind == "task") or 1.0
        for step in self.plan[update]:
            # 1. The samples of the step by kind, with the weight of their mean loss in the update. Copies and
            # texts are weighted by their number relative to the task's samples.
            if step.kind == "task":
                parts = {"task": (self.task.samples(self.seed, step.batch), step.weight)}
            else:
                assert self.aligned is not None
                drawn = self.aligned.draw(self.seed, step.batch)
                if self.aligned.align.weight:  # an arm without it trains on the samples of the pairs alone
                    batch = self.contrastive(_part(drawn, step), step.weight, self.rank, self.world)
                    content["tokens"] += batch.pop("tokens")
                    content["pairs"].append(batch)
                extra = {"copy": self.aligned.copies(drawn), "text": self.aligned.texts(drawn)}
                if count := self.aligned.align.switched_samples:
                    extra["switched"] = self.switched.draw(self.seed, step.batch, count)
                size = self.task.recipe.samples_per_update * step.parts
                parts = {
                    kind: (samples, task_weight * len(samples) / size) for kind, samples in extra.items()
                }
            # 2. This process's share of them. The weight is divided by the labels of all processes, so that
            # the losses of the processes add up to the mean.
            for kind, (samples, weight) in parts.items():
                of_step = _part(samples, step)
                labels = sum(len(sample.target) for sample in of_step)
                share = _share(of_step, self.rank, self.world)
                groups[kind] += share
                weights[kind] += [weight / labels] * len(share) if labels else []
                content["tokens"] += labels + sum(len(sample.prompt) for sample in of_step)
        # 3. One set of rows for all steps and kinds.
        if any(groups.values()):
            flat = [weight for kind in KINDS for weight in weights[kind]]
            content["answers"] = lay_out_answers(groups, flat, self.pad, self.width)
        return content

    def describe(self, update: int) -> str:
        """Describe an update by its training documents and its first pair, for error messages."""
        parts = []
        for step in self.plan[update]:
            if step.kind == "task":
                size = self.task.recipe.samples_per_update
                positions = epoch_positions(self.seed, step.batch * size, size, len(self.task))
                parts.append(f"training documents {', '.join(map(str, sorted(_part(positions, step))))}")
            elif self.aligned is not None:
                pair = _part(self.aligned.draw(self.seed, step.batch), step)[0]
                parts.append(f"pairs from {pair.foreign!r} on")
        return "; ".join(parts)

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
            start = self.task.prompt_start
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
