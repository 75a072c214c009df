"""Adapters that start as a part of the base's weights (PiSSA, OLoRA)."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from midalign import adapter


def starts_in_base(model: nn.Module) -> bool:
    """Return whether the adapter starts as a part of the base's weights, which peft subtracts from them."""
    configs = getattr(model, "peft_config", {})
    return any(config.init_lora_weights not in adapter.PLAIN_STARTS for config in configs.values())


def copy_initial_weights(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Return copies of the trained weights if the base's output depends on them.

    This holds if the adapter starts as a part of the base's weights, or if the base's biases are trained.
    """
    configs = getattr(model, "peft_config", {})
    if not starts_in_base(model) and all(config.bias == "none" for config in configs.values()):
        return {}
    return {weight: weight.detach().clone() for weight in model.parameters() if weight.requires_grad}


@contextmanager
def as_base(model: nn.Module, initial: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Make the model compute as its base: with `initial` weights, and without a separate adapter.

    peft's `disable_adapter` would also turn `requires_grad` off and on. FSDP would toggle the gathered
    weights and leave the sharded ones frozen.
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


def write_plain_copy(folder: Path, copy: Path, initial: Mapping[str, Tensor]) -> Path:
    """Write an adapter as plain LoRA of twice its rank to `copy`, and return `copy`.

    peft subtracts the initial product from the base's weights W, so that the trained model has the weights
    W - s B0 A0 + s B A. Relative to an unmodified base the change is s [B, -B0] [A; A0].

    Args:
        folder: the adapter as peft saved it.
        initial: its initial weights, by the names in the file.
    """
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    weights = load_file(folder / adapter.WEIGHTS)
    for name, trained in weights.items():
        if name.endswith("lora_A.weight"):
            weights[name] = torch.cat([trained, initial[name].to(trained)])
        elif name.endswith("lora_B.weight"):
            weights[name] = torch.cat([trained, -initial[name].to(trained)], 1).contiguous()
    save_file(weights, copy / adapter.WEIGHTS, metadata={"format": "pt"})
    settings = json.loads((folder / adapter.CONFIG).read_text("utf-8"))
    # Keep the scaling, which is alpha / rank, or alpha / rank ** 0.5 in rsLoRA.
    wider = 2**0.5 if settings["use_rslora"] else 2
    settings |= {
        "init_lora_weights": True,
        "r": 2 * settings["r"],
        "lora_alpha": wider * settings["lora_alpha"],
        "rank_pattern": {name: 2 * rank for name, rank in (settings["rank_pattern"] or {}).items()},
        "alpha_pattern": {name: wider * alpha for name, alpha in (settings["alpha_pattern"] or {}).items()},
    }
    (copy / adapter.CONFIG).write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    return copy
