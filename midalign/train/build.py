"""From a recipe to the trainer of one arm: model, adapter, data and schedule put together."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from midalign import adapter, bases
from midalign.errors import BaseModelError, RecipeError, nearest
from midalign.train.recipe import Align, Lora, Recipe

if TYPE_CHECKING:
    from midalign.train.samples import Tokens
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
"""Fields of transformers' TrainingArguments that leave an update's data and losses as the recipe says."""

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
"""Recipe keys in place of other fields of TrainingArguments."""


@dataclass(frozen=True)
class Arm:
    """One arm and seed of a recipe, ready to train."""

    recipe: Recipe
    align: Align | None
    layers: list[int]
    """Numbers of blocks below the aligned states, in the recipe's order."""
    tokens: "Tokens"
    stream: "Stream"
    trainer: "AlignmentTrainer"

    @property
    def layer(self) -> int:
        """The layer that monitor, manifest and records measure retrieval after."""
        return self.layers[0]


def build(recipe: Recipe, arm: str, seed: int, work: Path, samples: "TaskSamples | None" = None) -> Arm:
    """Build the trainer of an arm, with checkpoints in `work`. `samples` are those of an earlier arm.

    Raises RecipeError for settings that this base does not support, and BaseModelError if it cannot be
    loaded.
    """
    from transformers import PrinterCallback, TrainingArguments, set_seed
    from transformers.integrations import is_deepspeed_zero3_enabled

    from midalign.align.packing import can_pack
    from midalign.align.rows import WIDTH
    from midalign.device import device, keep_freed_memory, training_dtype
    from midalign.train.distributed import rank, without_launchers_precision, world
    from midalign.train.samples import Tokens
    from midalign.train.schedule import schedule
    from midalign.train.sentence_pairs import PairSamples
    from midalign.train.stream import Stream
    from midalign.train.task_samples import TaskSamples
    from midalign.train.trainer import AlignmentTrainer

    align = recipe.align_of(arm)
    plan = schedule(recipe.updates, align)
    own = {
        "output_dir": str(work),
        "max_steps": len(plan),
        "per_device_train_batch_size": 1,  # an update of the stream is one item
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
        **({"ddp_backend": "gloo"} if device() == "cpu" and world() > 1 else {}),
    }
    with without_launchers_precision():
        arguments = TrainingArguments(**{"weight_decay": 0.0, **_typed_arguments(recipe.arguments), **own})
    if is_deepspeed_zero3_enabled():
        raise RecipeError(
            "DeepSpeed's stage 3 parts the weights while the base is loaded, before it is tried out: "
            "take --zero_stage 2, or FSDP (accelerate launch --use_fsdp --fsdp_version 2 ...)"
        )
    set_seed(seed)
    base, tokenizer = load_base(recipe.base, in_4bit=recipe.load_in_4bit)
    _check_template(recipe, tokenizer)
    _check_share(align, world())
    check_bos(recipe.base, base, tokenizer)
    check_causal(recipe.base, base)
    tokens = Tokens(tokenizer, recipe.max_tokens)
    pairs = PairSamples(recipe, align, tokens) if align else None
    # An arm without alignment is watched where the aligned ones are.
    watched = recipe.align if recipe.monitor is not None and recipe.aligned else None
    layers = _layers(recipe, align or watched, base, tokens)
    packed = recipe.packing and can_pack(base)
    if recipe.packing and not packed:
        log.warning("%s does not allow several samples a row; they are padded", type(base).__name__)
    if arguments.bf16 and recipe.lora is not None:
        halve_linears(base)
    if device() == "cpu":
        # The backward pass of torch's fused attention in bf16 takes seven times as long there as in fp32.
        base.set_attn_implementation("eager")
        keep_freed_memory()
    width = WIDTH if packed else None
    samples = TaskSamples(recipe, tokens) if samples is None else samples
    stream = Stream(seed, plan, samples, pairs, width=width, rank=rank(), world=world())
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
        _check_sharded(recipe, world())
    return Arm(recipe, align, layers, tokens, stream, trainer)


def _typed_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recipe's `arguments` as the types of ARGUMENTS: YAML reads `1e-8` as text.

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
            raise RecipeError(f"arguments.{name}: {error.errors()[0]['msg']}, found {value!r}") from None
    return typed


def load_base(name: str, *, in_4bit: bool = False) -> tuple[Any, Any]:
    """Return model and tokenizer of a base by name, path or hub id. The model is in fp32 or 4 bits.

    Raises BaseModelError.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = bases.resolve(name)
    options: dict[str, Any] = {"dtype": torch.float32}
    if in_4bit:
        options = {"dtype": torch.bfloat16, "quantization_config": _four_bits()}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(
            f"The base {name!r} cannot be loaded: {reason} "
            f"Give a folder with config.json and weights (base=PATH), a hub id, or base=mini"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return model, tokenizer


def _four_bits() -> Any:
    import importlib.util

    import torch
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError("load_in_4bit needs bitsandbytes, which is not installed: pip install bitsandbytes")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


ENGLISH = (
    "The committee met on Tuesday to discuss the new bridge. Most of its members were in favour, although "
    "the cost was higher than anyone had expected, and the work would take at least three years."
)


def _check_template(recipe: Recipe, tokenizer: Any) -> None:
    if recipe.chat_template and tokenizer.chat_template is None:
        raise RecipeError(
            f"recipe {recipe.name} asks for a chat template and the tokenizer of {recipe.base} has none: "
            f"set chat_template=false, or take the instruction-tuned model"
        )


def _check_share(align: Align | None, processes: int) -> None:
    """Raise RecipeError where the pairs of a contrastive batch do not share out evenly."""
    if align is None:
        return
    pairs = align.pairs_per_update
    if align.alternate == "micro":
        pairs //= align.ratio[1] * align.cycles
    if pairs % processes:
        raise RecipeError(
            f"{processes} processes cannot share {pairs} pairs evenly: set align.pairs_per_update to a "
            f"multiple of {align.pairs_per_update // pairs * processes}"
        )


def _check_sharded(recipe: Recipe, processes: int) -> None:
    """Raise RecipeError for what processes that gather from each other cannot do: they would wait for ever
    for one that makes fewer forwards, and know of the model's weights alone."""
    aligns = [align for align in map(recipe.align_of, recipe.arms) if align is not None]
    parts = max((one.ratio[0] * one.cycles for one in aligns if one.alternate == "micro"), default=1)
    problem = None
    if recipe.max_batch_tokens is not None:
        problem = "max_batch_tokens gives them different numbers of forwards: take recompute=true instead"
    elif recipe.samples_per_update < parts * processes:
        problem = (
            f"samples_per_update={recipe.samples_per_update} leaves some without: {parts * processes} do"
        )
    elif any(one.learn_temperature for one in aligns):
        problem = "align.learn_temperature is no weight of the model: leave it out"
    elif any(align.preservation for align in aligns) and _trains_base(recipe.lora):
        problem = "token preservation needs a base that lora.init_lora_weights and lora.bias leave as it is"
    if problem is not None:
        raise RecipeError(f"{processes} processes train sharded (FSDP or DeepSpeed). {problem}")


def _trains_base(lora: Lora | None) -> bool:
    """Return whether the adapter changes the base's own weights while it trains."""
    extra = (lora.model_extra if lora else None) or {}
    start, bias = extra.get("init_lora_weights", True), extra.get("bias", "none")
    return start not in adapter.PLAIN_STARTS or bias != "none"


def check_bos(name: str, base: Any, tokenizer: Any) -> None:
    """Raise BaseModelError where the tokenizer leaves out a BOS without which the base babbles.

    Tokenizers lose it in conversions; Gemma 3 270M then takes 1.95 bits for a character of English, not 0.99.
    """
    from midalign.align.likelihood import bits_per_character
    from midalign.align.sentences import added_tokens

    bos = base.config.get_text_config().bos_token_id
    ids = tokenizer(ENGLISH)["input_ids"]
    before, _ = added_tokens(tokenizer)
    if not isinstance(bos, int) or before:
        return
    without, with_bos = (
        bits_per_character(base, [begin + ids], len(ENGLISH), tokenizer.pad_token_id) for begin in ([], [bos])
    )
    if with_bos < LOST_BOS * without:
        raise BaseModelError(
            f"The tokenizer of {name!r} puts no BOS before a text, and the base needs it: English takes "
            f"{without:.2f} bits a character without it and {with_bos:.2f} with it. Restore it in the "
            f"tokenizer's files (add_bos_token, or the template of its post-processor)"
        )


def check_causal(name: str, base: Any) -> None:
    """Raise BaseModelError for a base whose states cannot be read per token, or depend on later tokens.

    The former holds for models with several streams per token, such as Gemma 3n, the latter for BERT.
    """
    import torch

    from midalign.align.trunk import check_states, depth, states_at

    ids = torch.arange(3, 11, device=base.device).unsqueeze(0) % base.config.get_text_config().vocab_size
    changed = torch.cat([ids[:, :-1], ids[:, :1]], 1)
    base.eval()
    try:
        check_states(base)
    except ValueError as error:
        raise BaseModelError(
            f"The base {name!r} ({type(base).__name__}) cannot be aligned: {error}"
        ) from error
    with torch.no_grad():
        before, after = (states_at(base, {"input_ids": row}, depth(base))[0, :-1] for row in (ids, changed))
    if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        raise BaseModelError(
            f"The base {name!r} ({type(base).__name__}) is no decoder: later tokens change the states of "
            f"earlier ones. Choose a causal language model, such as google/gemma-3-270m"
        )


LOST_BOS = 0.8
"""Bits with BOS over bits without from which on a base needs it: one trained without it gains nothing."""


def halve_linears(model: Any) -> None:
    """Keep the weights of linear layers in bf16, in place, where autocast would cast them at every use.

    Embeddings, norms and the residual stream stay in fp32. A head that shares the embeddings' weight is left.
    """
    import torch

    head = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is torch.nn.Linear and module is not head:
            module.to(torch.bfloat16)


def with_adapter(base: Any, lora: Lora | None) -> Any:
    """Return the base with a fresh LoRA adapter, or itself if all weights are trained.

    Raises RecipeError for a field that LoraConfig lacks, a form of LoRA that `midalign eval` does not run,
    and targets that this base lacks.
    """
    import peft

    if lora is None:
        return base
    extra = lora.model_extra or {}
    _check_form(extra)
    for name in extra:
        fields = peft.LoraConfig.__dataclass_fields__
        if name not in fields:
            raise RecipeError(f"lora.{name} is no field of peft's LoraConfig.{nearest(name, fields)}")
    if lora.targets == "all-linear":
        extra = {"exclude_modules": _outside_decoder(base) or None} | extra
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.targets,
        **extra,
    )
    linear = {name.rpartition(".")[2] for name, module in base.named_modules() if _takes_lora(module)}
    missing = sorted(set(lora.targets) - linear) if isinstance(lora.targets, list) else []
    if missing:
        raise RecipeError(
            f"{type(base).__name__} has no modules named {', '.join(missing)} (lora.targets). "
            f"Its linear layers: {', '.join(sorted(linear))}; or targets: all-linear"
        )
    return peft.get_peft_model(base, config)


def _check_form(extra: Mapping[str, Any]) -> None:
    """Raise RecipeError for forms of LoRA that cannot be trained here, or not be evaluated afterwards."""
    form = next((field for field in adapter.OTHER_FORMS if extra.get(field)), None)
    if form is not None:
        raise RecipeError(f"lora.{form} makes a form of LoRA that midalign eval does not run: leave it out")
    start = extra.get("init_lora_weights", True)
    if start == "eva" or start not in (*adapter.PLAIN_STARTS, *adapter.REPEATABLE_STARTS):
        raise RecipeError(
            f"lora.init_lora_weights={start} depends on random numbers, data or a quantised base, so that a "
            f"run could not be resumed. Expected true, gaussian, orthogonal, mica, olora or pissa"
        )
    if start not in adapter.PLAIN_STARTS and extra.get("use_dora"):
        raise RecipeError(
            f"lora.use_dora with init_lora_weights={start} cannot be written as an adapter of the base as it "
            f"is: leave one of them out"
        )


def _outside_decoder(base: Any) -> list[str]:
    """Return the names of linear layers outside the text decoder and its head, as in a vision tower."""
    inside = {id(module) for module in [*base.get_decoder().modules(), base.get_output_embeddings()]}
    return [name for name, module in base.named_modules() if _takes_lora(module) and id(module) not in inside]


def _takes_lora(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _layers(recipe: Recipe, align: Align | None, base: Any, tokens: "Tokens") -> list[int]:
    """Return the numbers of blocks below the aligned states. Raises RecipeError if the base has fewer."""
    from midalign.align.trunk import depth, layer_index

    wanted: Any = align.layer if align else "middle"
    wanted = wanted if isinstance(wanted, list) else [wanted]
    if align and "auto" in wanted:
        best = best_layer(recipe, align, base, tokens)
        wanted = [best if layer == "auto" else layer for layer in wanted]
    try:
        return [layer_index(layer, depth(base)) for layer in wanted]
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: align.layer: {error}") from None


def best_layer(recipe: Recipe, align: Align, base: Any, tokens: "Tokens") -> int:
    """Return the number of blocks after which the base retrieves most held-out translations."""
    from midalign.align.trunk import depth
    from midalign.train.monitor import pair_retrieval
    from midalign.train.sentence_pairs import PairSamples

    held_out = PairSamples(recipe, align, tokens).held_out
    layers = range(1, depth(base) + 1)
    by_language = [pair_retrieval(base, tokens, pairs, layers) for pairs in held_out]
    means = [sum(found) / len(found) for found in zip(*by_language, strict=True)]
    log.info("retrieval on held-out pairs after each block: %s", ", ".join(f"{100 * m:.0f}" for m in means))
    return 1 + means.index(max(means))
