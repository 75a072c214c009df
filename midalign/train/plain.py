"""Adapters that start as a part of the base's weights (PiSSA, OLoRA), written as plain LoRA."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from midalign import adapter

if TYPE_CHECKING:
    from torch import Tensor


def plain_copy(folder: Path, copy: Path, initial: Mapping[str, "Tensor"]) -> Path:
    """Write an adapter as plain LoRA of twice its rank to `copy`, and return that.

    peft takes the initial product out of the base's weights W, so that the trained model has
    W - s B0 A0 + s B A: on an untouched base the change is s [B, -B0] [A; A0].

    Args:
        folder: the adapter as peft saved it.
        initial: its initial weights, by the names in the file.
    """
    import torch
    from safetensors.torch import load_file, save_file

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
    # Scaling is alpha / rank, or alpha / rank ** 0.5 in rsLoRA, and stays what it was.
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
