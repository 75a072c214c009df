"""Two losses on transformers' Trainer: task batches through the head, pairs through the trunk alone."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer

from midalign.align.head import answer_loss, frozen_head
from midalign.align.objective import centre, info_nce, token_preservation
from midalign.align.pooling import mean_pool
from midalign.align.trunk import states_at, without_bos
from midalign.train.recipe import Align
from midalign.train.stream import IGNORED, Batch


class AlignmentTrainer(Trainer):
    """Trainer whose micro-batches are the stream's: `task`, or `pairs` with `copies`.

    An update descends task loss + weight x (contrastive + preservation x token preservation)
    + copy loss x (copy samples / task samples), each a mean over its own micro-batch.
    """

    loss_is_scaled_for_ga = (
        True  # the losses of an update's micro-batches add up; Trainer must not average them
    )

    def __init__(self, *, align: Align | None, layer: int, copy_share: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.align, self.layer, self.copy_share = align, layer, copy_share
        head = frozen_head(self.model)
        self.head = head.to(torch.bfloat16) if head is not None and self.args.bf16 else head
        self.losses: dict[str, list[Tensor]] = defaultdict(list)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Batch], *_: object, **__: object) -> Tensor:
        """The loss of one micro-batch."""
        # Trainer's own counter, since it is saved with checkpoints.
        self.state.num_input_tokens_seen += sum(int(part["attention_mask"].sum()) for part in inputs.values())
        if "task" in inputs:
            return self._note("task", self.answer_loss(model, inputs["task"]))
        loss = self.align_loss(model, inputs["pairs"])
        if "copies" in inputs:
            loss = loss + self.copy_share * self._note("copy", self.answer_loss(model, inputs["copies"]))
        return loss

    def answer_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross entropy of the answers' tokens."""
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
        return answer_loss(model, inputs, batch["labels"], IGNORED, self.head)

    def align_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Weighted contrastive loss, with token preservation where the recipe asks for it."""
        align = self.align
        assert align is not None
        ids, mask = batch["input_ids"], batch["attention_mask"]
        states = states_at(model, ids, mask, self.layer)
        kept = mask if align.include_bos else without_bos(model, ids, mask)
        foreign, english = mean_pool(states, kept).chunk(2)
        if align.centred:
            foreign, english = centre(foreign), centre(english)
        loss = info_nce(foreign, english, temperature=align.temperature, symmetric=align.symmetric)
        self._note("alignment", loss)
        if align.preservation:
            with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
                reference = states_at(model, ids, mask, self.layer)
            kept_apart = self._note("preservation", token_preservation(states, reference, kept))
            loss = loss + align.preservation * kept_apart
        return align.weight * loss

    def _note(self, name: str, loss: Tensor) -> Tensor:
        self.losses[name].append(loss.detach())
        return loss

    def take_losses(self) -> dict[str, float]:
        """Mean of each loss since the last call: true means over the micro-batches that have it."""
        means = {name: float(torch.stack(values).mean()) for name, values in self.losses.items()}
        self.losses.clear()
        return means

    def _get_train_sampler(self, *_: object) -> Sampler[int]:
        assert self.train_dataset is not None
        return SequentialSampler(self.train_dataset)  # the stream's order is the schedule

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: Trainer's formula counts the head and all blocks for every batch."""
        return 0
