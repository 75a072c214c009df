"""Build the trainer of an arm from a recipe: model, adapter, data and schedule."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from midalign.errors import RecipeError, nearest
from midalign.train.base_model import check_bos, check_causal, halve_linears, load_base, with_adapter
from midalign.train.recipe import Align, Recipe
from midalign.train.recipe_checks import check_sharded, check_share, check_template

if TYPE_CHECKING:
    from midalign.train.samples import SampleTokenizer
    from midalign.train.stream import Stream
    from midalign.train.task_samples import TaskSamples
    from midalign.train.trainer import AlignmentTrainer

log = logging.getLogger(__name__)

ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "weight_decay"), float),
    **dict.fromkeys(("optim", "optim_args", "run_name"), str),
    **dict.fromkeys(("torch_compile_backend", "torch_compile_mode"), str),
    **dict.fromkeys(("torch_compile", "tf32", "ddp_find_unused_parameters"), bool),
    **dict.fromkeys(("ddp_bucket_cap_mb", "ddp_timeout"), int),
    **dict.fromkeys(("fsdp_config", "deepspeed", "accelerator_config"), dict[str, Any] | str),
    "fsdp": bool | str | list[str],
    "lr_scheduler_kwargs": dict[str, Any],
}
"""Fields of transformers' TrainingArguments that a recipe may set, with their types.

They change neither the data nor the losses of an update."""

RECIPE_KEYS = {
    "gradient_accumulation_steps": "max_batch_tokens",
    "per_device_train_batch_size": "samples_per_update",
    "max_steps": "updates",
    "num_train_epochs": "updates",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "scheduler",
    "warmup_steps": "warmup",
    "gradient_checkpointing": "recompute",
    "bf16": "dtype",
    "fp16": "dtype",
    "seed": "seeds",
    "data_seed": "seeds",
    "save_steps": "save_every",
    "save_strategy": "save_every",
    "output_dir": "output",
    "report_to": "report_to",
}
"""Recipe keys that replace other fields of TrainingArguments."""


@dataclass(frozen=True)
class Arm:
    """One arm and seed of a recipe, ready to train."""

    recipe: Recipe
    align: Align | None
    layers: list[int]
    """Numbers of blocks below the aligned states, in the order of the recipe."""
    tokens: "SampleTokenizer"
    stream: "Stream"
    trainer: "AlignmentTrainer"

    @property
    def layer(self) -> int:
        """The layer at which monitor, manifest and records measure retrieval."""
        return self.layers[0]


def build_arm(recipe: Recipe, arm: str, seed: int, work: Path, samples: "TaskSamples | None" = None) -> Arm:
    """Build the trainer of an arm, with checkpoints in `work`.

    Args:
        recipe: The recipe.
        arm: Name of the arm.
        seed: Seed of weights, dropout and batches.
        work: Folder for checkpoints.
        samples: Task samples of an earlier arm, to avoid rendering them again.

    Raises:
        RecipeError: The base does not support a setting.
        BaseModelError: The base cannot be loaded or aligned.
    """
    from transformers import PrinterCallback, TrainingArguments, set_seed
    from transformers.integrations import is_deepspeed_zero3_enabled

    from midalign.align.packing import can_pack
    from midalign.align.rows import WIDTH
    from midalign.device import device, keep_freed_memory, training_dtype
    from midalign.train.distributed import process_rank, without_launchers_precision, world_size
    from midalign.train.samples import SampleTokenizer
    from midalign.train.schedule import plan_updates
    from midalign.train.sentence_pairs import PairSamples
    from midalign.train.stream import Stream
    from midalign.train.task_samples import TaskSamples
    from midalign.train.trainer import AlignmentTrainer

    # 1. TrainingArguments: the recipe's own keys override its `arguments`.
    align = recipe.align_of(arm)
    plan = plan_updates(recipe.updates, align)
    fixed = {
        "output_dir": str(work),
        "max_steps": len(plan),
        "per_device_train_batch_size": 1,  # an item of the stream is an update
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.scheduler,
        "warmup_steps": round(recipe.warmup * len(plan)),
        "bf16": training_dtype(recipe.dtype) == "bfloat16",
        "use_cpu": device() == "cpu",
        "seed": seed,
        "save_steps": recipe.save_every,
        "save_total_limit": 2,
        "logging_strategy": "no",
        "report_to": recipe.report_to,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": device() == "cuda",
        "gradient_checkpointing": recipe.recompute,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        **({"ddp_backend": "gloo"} if device() == "cpu" and world_size() > 1 else {}),
    }
    with without_launchers_precision():
        arguments = TrainingArguments(**{"weight_decay": 0.0, **_typed_arguments(recipe.arguments), **fixed})
    if is_deepspeed_zero3_enabled():
        raise RecipeError(
            "DeepSpeed's stage 3 shards the weights while the base is loaded, before the base is checked. "
            "Use --zero_stage 2, or FSDP (accelerate launch --use_fsdp --fsdp_version 2 ...)"
        )
    # 2. The base, checked before anything is added to it.
    set_seed(seed)
    base, tokenizer = load_base(recipe.base, in_4bit=recipe.load_in_4bit)
    check_template(recipe, tokenizer)
    check_share(align, world_size())
    check_bos(recipe.base, base, tokenizer)
    check_causal(recipe.base, base)
    # 3. Layers to align, or to measure in an arm without alignment, as in the other arms.
    tokens = SampleTokenizer(tokenizer, recipe.max_tokens)
    pairs = PairSamples(recipe, align, tokens) if align else None
    watched = recipe.align if recipe.monitor is not None and recipe.aligned else None
    layers = _layers(recipe, align or watched, base, tokens)
    # 4. Layout and precision.
    packed = recipe.packing and can_pack(base)
    if recipe.packing and not packed:
        log.warning(
            "%s does not allow several samples per row, so each is padded to a row of its own",
            type(base).__name__,
        )
    if arguments.bf16 and recipe.lora is not None:
        halve_linears(base)
    if device() == "cpu":
        # On CPUs the backward pass of torch's fused attention takes seven times as long in bf16 as in fp32.
        base.set_attn_implementation("eager")
        keep_freed_memory()
    # 5. Data and trainer.
    width = WIDTH if packed else None
    samples = TaskSamples(recipe, tokens) if samples is None else samples
    stream = Stream(seed, plan, samples, pairs, width=width, rank=process_rank(), world=world_size())
    trainer = AlignmentTrainer(
        model=with_adapter(base, recipe.lora),
        args=arguments,
        train_dataset=stream,
        align=align,
        layers=layers,
        languages=len(recipe.aligned),
        packed=packed,
        max_batch_tokens=recipe.max_batch_tokens,
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.sharded:
        check_sharded(recipe, world_size())
    return Arm(recipe, align, layers, tokens, stream, trainer)


def _typed_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's `arguments` with the types of ARGUMENTS, since YAML reads `1e-8` as a string.

    Raises RecipeError for other fields of TrainingArguments, and for values of a wrong type.
    """
    from transformers import TrainingArguments

    typed = {}
    for name, value in arguments.items():
        if name not in TrainingArguments.__dataclass_fields__:
            raise RecipeError(f"arguments.{name} is no field of TrainingArguments.{nearest(name, ARGUMENTS)}")
        if name not in ARGUMENTS:
            instead = f" Set the recipe's key {RECIPE_KEYS[name]}." if name in RECIPE_KEYS else ""
            raise RecipeError(
                f"arguments.{name} is not allowed, because a recipe's own keys decide what an update is."
                f"{instead} Allowed: {', '.join(sorted(ARGUMENTS))}"
            )
        try:
            typed[name] = TypeAdapter(ARGUMENTS[name]).validate_python(value)
        except ValidationError as error:
            raise RecipeError(f"arguments.{name}: {error.errors()[0]['msg']}, found {value!r}") from error
    return typed


def _layers(recipe: Recipe, align: Align | None, base: Any, tokens: "SampleTokenizer") -> list[int]:
    """Return the numbers of blocks below the aligned states. Raises RecipeError for a base with fewer."""
    from midalign.align.trunk import depth, layer_index

    layers: Any = align.layer if align else "middle"
    layers = layers if isinstance(layers, list) else [layers]
    if align and "auto" in layers:
        best = best_layer(recipe, align, base, tokens)
        layers = [best if layer == "auto" else layer for layer in layers]
    try:
        return [layer_index(layer, depth(base)) for layer in layers]
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: align.layer: {error}") from error


def best_layer(recipe: Recipe, align: Align, base: Any, tokens: "SampleTokenizer") -> int:
    """Return the number of blocks after which retrieval of held-out translations peaks."""
    from midalign.align.trunk import depth
    from midalign.train.monitor_measures import pair_retrieval
    from midalign.train.sentence_pairs import PairSamples

    held_out = PairSamples(recipe, align, tokens).held_out
    layers = range(1, depth(base) + 1)
    by_language = [pair_retrieval(base, tokens, pairs, layers) for pairs in held_out]
    means = [sum(of_layer) / len(of_layer) for of_layer in zip(*by_language, strict=True)]
    log.info("retrieval on held-out pairs after each block: %s", ", ".join(f"{100 * m:.0f}" for m in means))
    return 1 + means.index(max(means))
