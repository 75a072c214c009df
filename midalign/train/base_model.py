"""The base model: load it, check it, add an adapter."""

from collections.abc import Mapping
from typing import Any

from midalign import adapter, bases
from midalign.errors import BaseModelError, RecipeError, nearest
from midalign.train.recipe import Lora

ENGLISH = (
    "The committee met on Tuesday to discuss the new bridge. Most of its members were in favour, although "
    "the cost was higher than anyone had expected, and the work would take at least three years."
)

LOST_BOS = 0.8
"""A base needs BOS if its bits per character with BOS are below this share of those without.

A base that was trained without BOS gains nothing from it."""


def load_base(name: str, *, in_4bit: bool = False) -> tuple[Any, Any]:
    """Return model (fp32 or 4 bits) and tokenizer of a base by name, path or hub id.

    Raises BaseModelError if they cannot be loaded.
    """
    import torch

    options: dict[str, Any] = {"dtype": torch.float32}
    if in_4bit:
        options = {"dtype": torch.bfloat16, "quantization_config": _four_bits()}
    model, tokenizer = bases.load_model_and_tokenizer(bases.resolve(name), **options)
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


def check_bos(name: str, base: Any, tokenizer: Any) -> None:
    """Raise BaseModelError if the tokenizer omits a BOS that the base needs.

    Conversions can lose the BOS of a tokenizer. Gemma 3 270M then needs 1.95 bits per character of English
    instead of 0.99.
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
            f"{without:.2f} bits per character without it and {with_bos:.2f} with it. Restore it in the "
            f"tokenizer's files (add_bos_token, or the template of its post-processor)"
        )


def check_causal(name: str, base: Any) -> None:
    """Raise BaseModelError for a base with several states per token, or whose states depend on later tokens.

    Gemma 3n is an example of the former, BERT of the latter.
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
            f"The base {name!r} ({type(base).__name__}) is not a decoder: later tokens change the states of "
            f"earlier ones. Choose a causal language model, such as google/gemma-3-270m"
        )


def halve_linears(model: Any) -> None:
    """Convert the weights of linear layers to bf16 in place. Autocast would convert them at every use.

    Embeddings, norms and the residual stream stay in fp32, and so does the head, which may share the
    embeddings' weight.
    """
    import torch

    head = model.get_output_embeddings()
    for module in model.modules():
        if type(module) is torch.nn.Linear and module is not head:
            module.to(torch.bfloat16)


def with_adapter(base: Any, lora: Lora | None) -> Any:
    """Return the base with a fresh LoRA adapter, or the base itself if all weights are trained.

    Raises RecipeError for a field that LoraConfig lacks, a form of LoRA that `midalign eval` does not run,
    and targets that the base lacks.
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
    """Raise RecipeError for forms of LoRA that cannot be resumed or evaluated."""
    form = next((field for field in adapter.OTHER_FORMS if extra.get(field)), None)
    if form is not None:
        raise RecipeError(f"lora.{form} is a form of LoRA that midalign eval does not run. Remove it")
    start = extra.get("init_lora_weights", True)
    if start == "eva" or start not in (*adapter.PLAIN_STARTS, *adapter.REPEATABLE_STARTS):
        raise RecipeError(
            f"lora.init_lora_weights={start} depends on random numbers, data or a quantised base, so that a "
            f"run could not be resumed. Expected true, gaussian, orthogonal, mica, olora or pissa"
        )
    if start not in adapter.PLAIN_STARTS and extra.get("use_dora"):
        raise RecipeError(
            f"lora.use_dora with init_lora_weights={start} cannot be saved as an adapter of the unmodified "
            f"base. Remove one of them"
        )


def _outside_decoder(base: Any) -> list[str]:
    """Return the names of linear layers outside the text decoder and its head, as in a vision tower."""
    inside = {id(module) for module in [*base.get_decoder().modules(), base.get_output_embeddings()]}
    return [name for name, module in base.named_modules() if _takes_lora(module) and id(module) not in inside]


def _takes_lora(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)
