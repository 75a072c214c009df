"""Transformers' Trainer with two losses: cross entropy of samples, and alignment of sentence pairs."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from midalign.align.head import IGNORED, frozen_head, label_losses
from midalign.align.objective import token_deviation
from midalign.align.packing import attention_windows, model_inputs
from midalign.align.pooling import last_by_owner, mean_by_owner
from midalign.align.rows import MULTIPLE, PADDING
from midalign.align.trunk import states_at_each
from midalign.rounding import round_up
from midalign.train.alignment import AlignmentLoss
from midalign.train.distributed import gather_rows, sum_in_place, world_size
from midalign.train.initial_weights import as_base, copy_initial_weights
from midalign.train.recipe import Align
from midalign.train.stream import KINDS, Batch

LOSSES = (*KINDS, "alignment", "preservation")
"""Names of all losses, in the order in which processes sum them."""

ALIGNMENT = "alignment.safetensors"
"""File of a checkpoint with the learned temperature and the running means."""


class AlignmentTrainer(Trainer):
    """Trainer whose batches are the updates of a Stream.

    The loss of an update is cross entropy + weight * (contrastive + preservation * token preservation). Each
    term is a mean over the whole update, in all processes.
    """

    def __init__(
        self,
        *,
        align: Align | None,
        layers: Sequence[int],
        languages: int,
        packed: bool,
        max_batch_tokens: int | None,
        **kwargs: Any,
    ) -> None:
        """Prepare the trainer.

        Args:
            align: settings of the alignment, None without.
            layers: numbers of blocks below the aligned states.
            languages: number of aligned languages.
            packed: whether rows of the Stream hold several samples.
            max_batch_tokens: tokens per forward pass at most, None for no limit.
            kwargs: arguments of Trainer.
        """
        self.align, self.layers, self.max_batch_tokens = align, layers, max_batch_tokens
        self.alignment: AlignmentLoss | None = None
        super().__init__(**kwargs)
        model = self.model
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            head = frozen_head(model)
        self.head = head.to(torch.bfloat16) if head is not None and self.args.bf16 else head
        self.windows = attention_windows(model) if packed else None
        self.dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
        self.initial = copy_initial_weights(model)
        if align is not None:
            hidden = model.config.get_text_config().hidden_size
            self.alignment = AlignmentLoss(align, len(layers), languages, hidden).to(self.args.device)
        self.losses: dict[str, list[tuple[Tensor, float]]] = defaultdict(list)

    @property
    def sharded(self) -> bool:
        """True if each process holds a shard of the weights and gathers the others in forward passes."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return all updates in order. A process takes its share of each, not every n-th update."""
        assert self.train_dataset is not None
        with self.accelerator.main_process_first():  # the others read its disk cache
            self.train_dataset.prepare()
        updates = PrefetchedDataset(self.train_dataset)
        return DataLoader(updates, batch_size=1, collate_fn=lambda batch: batch[0])

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *_: object, **__: object) -> Tensor:
        """Run forward and backward of one update, and return this process's share of its loss."""
        model.train()
        if self.alignment is not None:
            self.alignment.zero_grad()  # Trainer clears the gradients of the model only
        # Trainer saves this counter with checkpoints.
        self.state.num_input_tokens_seen += inputs.pop("tokens")
        update: dict[str, Any] = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        losses: Iterable[Tensor] = self.losses_of(self.accelerator.unwrap_model(model), update)
        if self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            losses = [torch.stack(list(losses)).sum()]  # its backward pass includes the optimizer step
        for loss in losses:
            # Sharded training averages gradients, but the losses of the processes are shares of a sum.
            self.accelerator.backward(loss * world_size() if self.sharded else loss)
            total += loss.detach()
        if not self.sharded:
            self.add_up_gradients()
        return total

    def add_up_gradients(self) -> None:
        """Sum gradients over processes. A process without samples of a kind counts as zero."""
        if world_size() > 1:
            for parameter in self.trained_parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            sum_in_place([p.grad for p in self.trained_parameters() if p.grad is not None])

    def losses_of(self, model: nn.Module, update: Mapping[str, Any]) -> Iterator[Tensor]:
        """Yield the terms of the update's loss. Running backward after each frees its activations."""
        if "answers" in update:
            for rows in split_rows(update["answers"], self.max_batch_tokens):
                with self.compute_loss_context_manager():
                    yield self.answer_loss(model, rows)
        for batch in update["pairs"]:
            with self.compute_loss_context_manager():
                yield self.align_loss(model, batch)

    def answer_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted sum of the labels' cross entropy."""
        # 1. Cross entropy per label. Logits are computed at labelled positions only.
        losses = label_losses(model, self.inputs_of(batch), batch["labels"], self.head)
        # 2. Note the unweighted loss of each kind for the log.
        labelled = batch["labels"] != IGNORED
        kinds = batch["kinds"].unsqueeze(1).expand_as(labelled)[labelled]
        for number in batch["kinds"].unique().tolist():
            of_kind = losses.detach()[kinds == number]
            self.note(KINDS[number], of_kind.sum(), len(of_kind))
        # 3. The weights hold the division by the number of labels (see `Stream.__getitem__`).
        return (losses * batch["weights"][labelled].to(losses.dtype)).sum()

    def align_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return the weighted contrastive loss, with token preservation if the recipe asks for it.

        All processes compute the loss of the whole batch, each with gradients for its own sentences.
        """
        assert self.align is not None
        assert self.alignment is not None
        # 1. Embed this process's sentences. With several parts, activations are kept for one part at a time,
        # and the loss is still that of the whole batch, as in GradCache (arXiv 2101.06983).
        parts = split_rows(batch["rows"], self.max_batch_tokens)
        sentences = 2 * len(batch["same"]) // world_size()
        references = [self.reference(model, rows) for rows in parts]
        embedded = []
        for rows, reference in zip(parts, references, strict=True):
            if len(parts) == 1:
                embedded.append(self.embed(model, rows, reference, sentences))
            else:
                again = checkpoint(self.embed, model, rows, reference, sentences, use_reentrant=False)
                embedded.append(again)
        # 2. Each sentence is in one part and zero in the others. The rows are foreign sentences, then their
        # other sides.
        foreign, english = torch.stack([pooled for pooled, _, _ in embedded]).sum(0).chunk(2)
        loss = self.alignment(gather_rows(foreign), gather_rows(english), batch["languages"], batch["same"])
        self.note("alignment", loss.detach())
        loss = loss / world_size()  # gradients are summed over processes, and each has the whole loss
        # 3. Token preservation: how far tokens moved, relative to the variance of the base's states in all
        # processes.
        if self.align.preservation:
            moved = torch.stack([moved for _, moved, _ in embedded]).sum(0)
            variance = torch.stack([variance for _, _, variance in embedded]).sum(0).detach()
            sum_in_place([variance])
            preserved = (moved / variance.clamp(min=1e-12)).mean()
            self.note("preservation", preserved.detach(), 1 / world_size())
            loss = loss + self.align.preservation * preserved
        weighted: Tensor = batch["weight"] * loss
        return weighted

    def embed(
        self, model: nn.Module, rows: Batch, reference: list[Tensor] | None, sentences: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return pooled states, how far tokens moved, and the variance of the reference.

        The pooled states (sentences, layers, hidden) are zero for sentences in other rows. Movement and
        variance (layers,) are those of `token_deviation`, zero without a reference.
        """
        assert self.align is not None
        states = states_at_each(model, self.inputs_of(rows), self.layers)
        owner, real = rows["owner"], rows["owner"] != PADDING
        words = rows["words"]
        kept = real if self.align.include_bos else words
        if self.align.pooling == "last":
            pooled = [last_by_owner(state, owner, sentences) for state in states]
        else:
            pooled = [mean_by_owner(state, owner, kept, sentences) for state in states]
        if reference is None:
            zeros = pooled[0].new_zeros(len(states))
            return torch.stack(pooled, 1), zeros, zeros
        pairs = zip(states, reference, strict=True)
        moved, variance = zip(*(token_deviation(*pair, owner, words) for pair in pairs), strict=True)
        return torch.stack(pooled, 1), torch.stack(moved), torch.stack(variance)

    def reference(self, model: nn.Module, rows: Batch) -> list[Tensor] | None:
        """Return the base's states of each layer, None without token preservation."""
        assert self.align is not None
        if not self.align.preservation:
            return None
        with torch.no_grad(), as_base(model, self.initial):
            return states_at_each(model, self.inputs_of(rows), self.layers)

    def initial_by_name(self) -> dict[str, Tensor]:
        """Return `initial` by the names of weights in peft's files."""
        names = self.model.named_parameters()
        return {
            name.replace(".default", ""): self.initial[weight]
            for name, weight in names
            if weight in self.initial
        }

    def inputs_of(self, rows: Mapping[str, Tensor]) -> dict[str, object]:
        """Return the arguments of the model's forward for rows."""
        return model_inputs(rows, self.windows, torch.bfloat16 if self.args.bf16 else self.dtype)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters of the model, and the temperature if it is learned."""
        modules = [self.model, *([self.alignment] if self.alignment is not None else [])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def create_optimizer(self, *arguments: Any, **keywords: Any) -> torch.optim.Optimizer:
        """Create Trainer's optimizer, and add the temperature if it is learned."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*arguments, **keywords)
        learned = list(self.alignment.parameters()) if self.alignment is not None else []
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if learned and id(learned[0]) not in known:
            optimizer.add_param_group({"params": learned, "weight_decay": 0.0})
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as Trainer does, with the state of the alignment.

        Sharded weights are gathered, except in checkpoints (`_internal_call`), which Trainer saves by shard.
        """
        if self.is_fsdp_enabled and not _internal_call:
            weights = self.accelerator.get_state_dict(self.model)
            if self.args.should_save:
                self._save(output_dir, state_dict=weights)
        else:
            super().save_model(output_dir, _internal_call)
        state = self.alignment.state_dict() if self.alignment is not None else {}
        if state and self.args.should_save and output_dir is not None:
            # Trainer creates the folder of a sharded checkpoint later.
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            save_file(state, Path(output_dir) / ALIGNMENT)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as Trainer does, and load the alignment's state. Every launcher calls this when it resumes."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.alignment is not None and checkpoint is not None and (Path(checkpoint) / ALIGNMENT).is_file():
            self.alignment.load_state_dict(load_file(Path(checkpoint) / ALIGNMENT))

    def validation_loss(self, batch: Batch) -> float:
        """Return the summed cross entropy of the labels, without gradients."""
        batch = self._prepare_inputs(batch)
        with torch.no_grad():
            return float(label_losses(self.model, self.inputs_of(batch), batch["labels"], self.head).sum())

    def alignment_loss(self, batch: Mapping[str, Any]) -> float:
        """Return the unweighted contrastive loss without gradients. All processes hold the whole batch."""
        assert self.alignment is not None
        batch = self._prepare_inputs(dict(batch))
        self.alignment.eval()
        with torch.no_grad():
            pooled, _, _ = self.embed(self.model, batch["rows"], None, 2 * len(batch["same"]))
            loss = self.alignment(*pooled.chunk(2), batch["languages"], batch["same"])
        self.alignment.train()
        return float(loss)

    def gradients_of(self, update: Mapping[str, Any]) -> list[Tensor | None]:
        """Return the gradient of each trained parameter for a part of an update, summed over processes.

        Call it between updates. It restores noted losses and running means, and clears gradients, so that
        training continues unchanged.
        """
        noted = {name: list(values) for name, values in self.losses.items()}
        remembered = deepcopy(self.alignment.state_dict()) if self.alignment is not None else {}
        parameters = self.trained_parameters()
        for parameter in parameters:
            parameter.grad = None  # the temperature's gradient of the last update is still there
        for loss in self.losses_of(self.model, self._prepare_inputs(dict(update))):
            self.accelerator.backward(loss)
        if not self.sharded:
            self.add_up_gradients()
        gradients = [None if p.grad is None else p.grad.detach().clone() for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        if self.alignment is not None:
            self.alignment.load_state_dict(remembered)
        self.losses.clear()
        self.losses.update(noted)
        return gradients

    def log_measures(self, measures: Mapping[str, float | None]) -> None:
        """Log measures to the trackers in the recipe's `report_to`."""
        if self.args.report_to:
            self.log({name: value for name, value in measures.items() if value is not None})

    def note(self, name: str, total: Tensor, count: float = 1) -> None:
        """Add a sum of losses and their number to those of `take_losses`."""
        self.losses[name].append((total.double(), count))

    def take_losses(self) -> dict[str, float]:
        """Return the mean of each loss since the last call, over all processes.

        All processes sum all LOSSES in the same order, even those without samples of a kind.
        """
        device = self.args.device if world_size() > 1 else "cpu"
        sums = torch.zeros(len(LOSSES), 2, dtype=torch.float64)
        for row, name in zip(sums, LOSSES, strict=True):
            for total, count in self.losses[name]:
                row += torch.tensor([float(total), count])
        self.losses.clear()
        sums = sums.to(device)
        sum_in_place([sums])
        means = zip(LOSSES, sums.tolist(), strict=True)
        return {name: total / count for name, (total, count) in means if count}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0, since Trainer's estimate counts the head and all blocks for every batch."""
        return 0


class PrefetchedDataset(Dataset[dict[str, Any]]):
    """A dataset read in order, whose next item is made in a thread while the current one is used."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.executor = ThreadPoolExecutor(1)
        self.pending: dict[int, Future[dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        current = self.pending.pop(index, None) or self.executor.submit(self.dataset.__getitem__, index)
        if index + 1 < len(self.dataset):
            self.pending = {index + 1: self.executor.submit(self.dataset.__getitem__, index + 1)}
        return current.result()


def split_rows(rows: Batch, budget: int | None) -> list[Batch]:
    """Split rows into batches of at most `budget` tokens or one row, and trim their padding.

    Without a budget there is one batch.
    """
    if budget is None:
        return [rows]
    lengths = (rows["owner"] != PADDING).sum(1).tolist()
    cuts, widest = [0], 0
    for row, length in enumerate(lengths):
        width = round_up(length, MULTIPLE)
        if row > cuts[-1] and max(widest, width) * (row + 1 - cuts[-1]) > budget:
            cuts.append(row)
            widest = 0
        widest = max(widest, width)
    batches = []
    for start, end in pairwise([*cuts, len(lengths)]):
        width = round_up(max(lengths[start:end]), MULTIPLE)
        batches.append(
            {name: t[start:end, :width] if t.dim() == 2 else t[start:end] for name, t in rows.items()}
        )
    return batches
