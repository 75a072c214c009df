"""Two losses on transformers' Trainer: samples through the head, pairs through the trunk alone."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from midalign.adapter import PLAIN_STARTS
from midalign.align.head import IGNORED, frozen_head, label_losses
from midalign.align.objective import token_deviation
from midalign.align.packing import attention_windows, model_inputs
from midalign.align.pooling import last_by_owner, mean_by_owner
from midalign.align.rows import MULTIPLE, PADDING
from midalign.align.trunk import states_at_each
from midalign.train.alignment import Alignment
from midalign.train.distributed import gathered, sum_in_place, world
from midalign.train.recipe import Align
from midalign.train.stream import KINDS, Batch

LOSSES = (*KINDS, "alignment", "preservation")
"""Names of all losses, whichever a process has computed."""

ALIGNMENT = "alignment.safetensors"
"""In a checkpoint, what the alignment learned and remembers."""


class AlignmentTrainer(Trainer):
    """Trainer whose batches are the updates of a Stream, each with both losses.

    An update descends its samples' cross entropy + weight x (contrastive + preservation x token
    preservation), each a mean over all that the update has of it, in all processes.
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

        `layers` are the numbers of blocks below the aligned states, `languages` the number of aligned
        languages. `packed` says how the Stream lays out its rows, `max_batch_tokens` how many of their tokens
        go into one forward.
        """
        self.align, self.layers, self.max_batch_tokens = align, layers, max_batch_tokens
        self.alignment: Alignment | None = None
        super().__init__(**kwargs)
        model = self.model
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.args.bf16):
            head = frozen_head(model)
        self.head = head.to(torch.bfloat16) if head is not None and self.args.bf16 else head
        self.windows = attention_windows(model) if packed else None
        self.dtype = next(p.dtype for p in model.parameters() if p.requires_grad)
        self.initial = initial_weights(model)
        if align is not None:
            hidden = model.config.get_text_config().hidden_size
            self.alignment = Alignment(align, len(layers), languages, hidden).to(self.args.device)
        self.losses: dict[str, list[tuple[Tensor, float]]] = defaultdict(list)

    @property
    def sharded(self) -> bool:
        """Whether every process holds a part of the weights, and gathers them in its forwards."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the updates in order, whole. A process takes its part of each, not every n-th update."""
        assert self.train_dataset is not None
        with self.accelerator.main_process_first():  # the others read what it has put on disk
            self.train_dataset.prepare()
        return DataLoader(Ahead(self.train_dataset), batch_size=1, collate_fn=lambda batch: batch[0])

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *_: object, **__: object) -> Tensor:
        """Run forward and backward of one update, and return this process's share of its loss."""
        model.train()
        if self.alignment is not None:
            self.alignment.zero_grad()  # Trainer knows of the model's gradients only
        # Trainer's own counter, since it is saved with checkpoints.
        self.state.num_input_tokens_seen += inputs.pop("tokens")
        update: dict[str, Any] = self._prepare_inputs(inputs)
        total = torch.zeros((), device=self.args.device)
        losses: Iterable[Tensor] = self.losses_of(self.accelerator.unwrap_model(model), update)
        if self.accelerator.distributed_type is DistributedType.DEEPSPEED:
            losses = [torch.stack(list(losses)).sum()]  # its every backward ends in a step of the optimizer
        for loss in losses:
            # Sharded training averages gradients by itself; ours are shares of one loss, which add up.
            self.accelerator.backward(loss * world() if self.sharded else loss)
            total += loss.detach()
        if not self.sharded:
            self.add_up_gradients()
        return total

    def add_up_gradients(self) -> None:
        """Sum the gradients of all processes; one that had no sample of a kind counts as zero."""
        if world() > 1:
            for parameter in self.trained_parameters():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            sum_in_place([p.grad for p in self.trained_parameters() if p.grad is not None])

    def losses_of(self, model: nn.Module, update: Mapping[str, Any]) -> Iterator[Tensor]:
        """Yield the update's loss in terms that add up. Each goes backward before the next is computed."""
        if "answers" in update:
            for rows in in_batches(update["answers"], self.max_batch_tokens):
                with self.compute_loss_context_manager():
                    yield self.answer_loss(model, rows)
        for batch in update["pairs"]:
            with self.compute_loss_context_manager():
                yield self.align_loss(model, batch)

    def answer_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted sum of the labels' cross entropy."""
        losses = label_losses(model, self.inputs_of(batch), batch["labels"], self.head)
        labelled = batch["labels"] != IGNORED
        kinds = batch["kinds"].unsqueeze(1).expand_as(labelled)[labelled]
        for number in batch["kinds"].unique().tolist():
            own = losses.detach()[kinds == number]
            self.note(KINDS[number], own.sum(), len(own))
        return (losses * batch["weights"][labelled].to(losses.dtype)).sum()

    def align_loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Return the weighted contrastive loss, with token preservation if the recipe asks for it."""
        assert self.align is not None
        assert self.alignment is not None
        parts = in_batches(batch["rows"], self.max_batch_tokens)
        sentences = 2 * len(batch["same"]) // world()
        references = [self.reference(model, rows) for rows in parts]
        embedded = []
        for rows, reference in zip(parts, references, strict=True):
            if len(parts) == 1:
                embedded.append(self.embed(model, rows, reference, sentences))
            else:  # as GradCache (arXiv 2101.06983): one part's activations at a time, the whole batch's loss
                again = checkpoint(self.embed, model, rows, reference, sentences, use_reentrant=False)
                embedded.append(again)
        foreign, english = torch.stack([pooled for pooled, _, _ in embedded]).sum(0).chunk(2)
        loss = self.alignment(gathered(foreign), gathered(english), batch["languages"], batch["same"])
        self.note("alignment", loss.detach())
        loss = loss / world()  # every process has the whole of it
        if self.align.preservation:
            moved = torch.stack([moved for _, moved, _ in embedded]).sum(0)
            variance = torch.stack([variance for _, _, variance in embedded]).sum(0).detach()
            sum_in_place([variance])
            preserved = (moved / variance.clamp(min=1e-12)).mean()
            self.note("preservation", preserved.detach(), 1 / world())
            loss = loss + self.align.preservation * preserved
        weighted: Tensor = batch["weight"] * loss
        return weighted

    def embed(
        self, model: nn.Module, rows: Batch, reference: list[Tensor] | None, sentences: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return pooled states, how far tokens moved, and the variance of the reference.

        The states are (sentences, layers, hidden), zeros for sentences in other rows. The others are by layer
        (`token_deviation`).
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
            nothing = pooled[0].new_zeros(len(states))
            return torch.stack(pooled, 1), nothing, nothing
        pairs = zip(states, reference, strict=True)
        moved, variance = zip(*(token_deviation(*pair, owner, words) for pair in pairs), strict=True)
        return torch.stack(pooled, 1), torch.stack(moved), torch.stack(variance)

    def reference(self, model: nn.Module, rows: Batch) -> list[Tensor] | None:
        """Return the base's states if token preservation needs them."""
        assert self.align is not None
        if not self.align.preservation:
            return None
        with torch.no_grad(), as_base(model, self.initial):
            return states_at_each(model, self.inputs_of(rows), self.layers)

    def initial_by_name(self) -> dict[str, Tensor]:
        """Return `initial` under the names that peft writes to disk."""
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
        """Return the model's trained parameters, and the temperature if it is learned."""
        modules = [self.model, *([self.alignment] if self.alignment is not None else [])]
        return [p for module in modules for p in module.parameters() if p.requires_grad]

    def create_optimizer(self, *arguments: Any, **keywords: Any) -> torch.optim.Optimizer:
        """Create Trainer's optimizer, with the temperature if it is learned."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*arguments, **keywords)
        learned = list(self.alignment.parameters()) if self.alignment is not None else []
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if learned and id(learned[0]) not in known:
            optimizer.add_param_group({"params": learned, "weight_decay": 0.0})
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as Trainer does, with the state of the alignment. Sharded weights are gathered.

        In a checkpoint (`_internal_call`) Trainer keeps a process's share of them as it is.
        """
        if self.is_fsdp_enabled and not _internal_call:
            weights = self.accelerator.get_state_dict(self.model)
            if self.args.should_save:
                self._save(output_dir, state_dict=weights)
        else:
            super().save_model(output_dir, _internal_call)
        state = self.alignment.state_dict() if self.alignment is not None else {}
        if state and self.args.should_save and output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)  # a sharded checkpoint's comes later
            save_file(state, Path(output_dir) / ALIGNMENT)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as Trainer does, with the alignment's state. Every way of launching calls this on resuming."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.alignment is not None and checkpoint is not None and (Path(checkpoint) / ALIGNMENT).is_file():
            self.alignment.load_state_dict(load_file(Path(checkpoint) / ALIGNMENT))

    def validation_loss(self, batch: Batch) -> float:
        """Sum of the labels' cross entropy."""
        batch = self._prepare_inputs(batch)
        with torch.no_grad():
            return float(label_losses(self.model, self.inputs_of(batch), batch["labels"], self.head).sum())

    def alignment_loss(self, batch: Mapping[str, Any]) -> float:
        """Return the unweighted contrastive loss of pairs that all processes have, without gradients."""
        assert self.alignment is not None
        batch = self._prepare_inputs(dict(batch))
        self.alignment.eval()
        with torch.no_grad():
            pooled, _, _ = self.embed(self.model, batch["rows"], None, 2 * len(batch["same"]))
            loss = self.alignment(*pooled.chunk(2), batch["languages"], batch["same"])
        self.alignment.train()
        return float(loss)

    def gradients_of(self, update: Mapping[str, Any]) -> list[Tensor | None]:
        """Return each trained parameter's gradient from parts of an update, summed over all processes.

        To be called between updates. Training goes on as if this had not been called: noted losses and the
        running means of languages are as before, and gradients are cleared.
        """
        noted = {name: list(values) for name, values in self.losses.items()}
        remembered = deepcopy(self.alignment.state_dict()) if self.alignment is not None else {}
        parameters = self.trained_parameters()
        for parameter in parameters:
            parameter.grad = None  # the temperature's is kept until the next update
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
        """Log measures where the recipe reports to (comet_ml, tensorboard, wandb)."""
        if self.args.report_to:
            self.log({name: value for name, value in measures.items() if value is not None})

    def note(self, name: str, total: Tensor, count: float = 1) -> None:
        """Keep a sum of losses and their number until `take_losses`."""
        self.losses[name].append((total.double(), count))

    def take_losses(self) -> dict[str, float]:
        """Return the mean of each loss since the last call, over all processes.

        Every process sums all of LOSSES: an update may give one of them no pair or no copy.
        """
        place = self.args.device if world() > 1 else "cpu"
        sums = torch.zeros(len(LOSSES), 2, dtype=torch.float64)
        for row, name in zip(sums, LOSSES, strict=True):
            for total, count in self.losses[name]:
                row += torch.tensor([float(total), count])
        self.losses.clear()
        sums = sums.to(place)
        sum_in_place([sums])
        means = zip(LOSSES, sums.tolist(), strict=True)
        return {name: total / count for name, (total, count) in means if count}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: Trainer's formula would count the head and all blocks for every batch."""
        return 0


def starts_in_base(model: nn.Module) -> bool:
    """Return whether the adapter starts as a part of the base's weights, which peft takes out of them."""
    configs = getattr(model, "peft_config", {})
    return any(config.init_lora_weights not in PLAIN_STARTS for config in configs.values())


def initial_weights(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Return copies of the trained weights, where the base needs them to answer as it did.

    It does if the adapter starts as a part of its weights, or if its biases are trained.
    """
    configs = getattr(model, "peft_config", {})
    if not starts_in_base(model) and all(config.bias == "none" for config in configs.values()):
        return {}
    return {weight: weight.detach().clone() for weight in model.parameters() if weight.requires_grad}


@contextmanager
def as_base(model: nn.Module, initial: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Let the model answer as its base: with `initial` weights, and without an adapter that is no part of it.

    peft's `disable_adapter` also turns `requires_grad` off and on. FSDP would toggle the gathered weights and
    leave the sharded ones frozen.
    """
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    dropouts = [d for layer in layers for d in getattr(layer, "lora_dropout", nn.ModuleDict()).values()]
    trained = {weight: weight.data for weight in initial}
    training = [dropout.training for dropout in dropouts]
    for weight, value in initial.items():
        weight.data = value
    for dropout in dropouts:
        dropout.eval()
    for layer in layers:
        layer._disable_adapters = not starts_in_base(model)
    try:
        yield
    finally:
        for weight, value in trained.items():
            weight.data = value
        for dropout, trains in zip(dropouts, training, strict=True):
            dropout.train(trains)
        for layer in layers:
            layer._disable_adapters = False


class Ahead(Dataset[dict[str, Any]]):
    """A dataset read in order, whose next item is made while the last one is worked on."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.maker = ThreadPoolExecutor(1)
        self.made: dict[int, Future[dict[str, Any]]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        now = self.made.pop(index, None) or self.maker.submit(self.dataset.__getitem__, index)
        if index + 1 < len(self.dataset):
            self.made = {index + 1: self.maker.submit(self.dataset.__getitem__, index + 1)}
        return now.result()


def in_batches(rows: Batch, budget: int | None) -> list[Batch]:
    """Split rows into batches of at most `budget` tokens, or of one row, and trim padding.

    None: one batch.
    """
    if budget is None:
        return [rows]
    lengths = (rows["owner"] != PADDING).sum(1).tolist()
    cuts, widest = [0], 0
    for row, length in enumerate(lengths):
        width = -(-length // MULTIPLE) * MULTIPLE
        if row > cuts[-1] and max(widest, width) * (row + 1 - cuts[-1]) > budget:
            cuts.append(row)
            widest = 0
        widest = max(widest, width)
    found = []
    for start, end in pairwise([*cuts, len(lengths)]):
        width = -(-max(lengths[start:end]) // MULTIPLE) * MULTIPLE
        found.append(
            {name: t[start:end, :width] if t.dim() == 2 else t[start:end] for name, t in rows.items()}
        )
    return found
