"""A base in memory with its adapters, and the proof that each of them acts."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midalign.errors import AdapterError, BaseModelError

PROBE = "Utterance: wake me up at nine am on friday\nSlots:"
"""A prompt like the tasks'; what matters is only that models differ on it."""

SILENT = 1e-6
"""Logits that differ by less than this share of their largest are the same: fp32 has 2^-23."""


def load(base: str, adapters: Mapping[str, Path], dtype: str) -> tuple[Any, Any]:
    """Model on this machine's device and tokenizer, the adapters attached under their names, none active.

    Weights are as transformers loads them in `dtype` ("float32", "bfloat16").
    Raises BaseModelError or AdapterError.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from midalign.device import device

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"The base {base} cannot be loaded: {reason} "
            f"Give a folder with config.json, weights and tokenizer, a hub id, or mini for the bundled base"
        ) from None
    model = attach(model, adapters)
    switch(model, None)
    return model.to(device()).eval(), tokenizer


def attach(model: Any, adapters: Mapping[str, Path]) -> Any:
    """The model with peft adapters under their names, in its own dtype; itself where there are none."""
    import peft

    for name, folder in adapters.items():
        settings: dict[str, Any] = {"adapter_name": _module_name(name), "autocast_adapter_dtype": False}
        try:
            if isinstance(model, peft.PeftModel):
                model.load_adapter(str(folder), **settings)
            else:
                model = peft.PeftModel.from_pretrained(model, str(folder), **settings)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise AdapterError(f"peft cannot attach {folder}: {reason[:500]}") from None
    return model


def switch(model: Any, adapter: str | None) -> None:
    """Let one adapter act, or none."""
    if adapter is None:
        if hasattr(model, "peft_config"):
            model.base_model.disable_adapter_layers()
    else:
        model.base_model.enable_adapter_layers()
        model.set_adapter(_module_name(adapter))


def _module_name(adapter: str) -> str:
    """The name under which peft keeps an adapter's modules: torch allows no point in it."""
    return adapter.replace(".", "_")


def cast(model: Any, dtype: str) -> None:
    """Turn parameters to `dtype` in place, and leave buffers as they are, as loading in that dtype does.

    `model.to(dtype)` would round the frequencies of rotary embeddings as well.
    """
    import torch

    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(getattr(torch, dtype))


def probe_logits(model: Any, tokenizer: Any) -> Any:
    """Logits of the probe, (tokens, vocabulary) fp32 on the CPU."""
    import torch

    ids = tokenizer(PROBE, return_tensors="pt")["input_ids"].to(model.device)
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits[0].float().cpu()


def prove_each_acts(model: Any, tokenizer: Any, adapters: Mapping[str, Path]) -> None:
    """Compare each adapter's fp32 logits on the probe with the base's; raises AdapterError if they are equal.

    `model` is in fp32: rounding to bf16 could hide a weak adapter, or make a difference of its own.
    """
    switch(model, None)
    base = probe_logits(model, tokenizer)
    for name, folder in adapters.items():
        switch(model, name)
        difference = float((probe_logits(model, tokenizer) - base).abs().max())
        if not difference > SILENT * float(base.abs().max()):
            raise AdapterError(
                f"The adapter {folder} does nothing: its logits on a probe are the base's (difference "
                f"{difference:.1e}). It was saved before any training, or its weights have names that peft "
                f"does not find in this base; train it again, or leave it out"
            )
    switch(model, None)
