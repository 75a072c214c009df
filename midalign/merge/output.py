"""Write merged adapters as peft folders."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from midalign import adapter
from midalign.errors import AdapterError
from midalign.files import is_local_path
from midalign.merge.source import LoraChange, LoraSource


def refuse_existing(output: Path) -> None:
    """Raise AdapterError if the output already exists."""
    if output.exists():
        raise AdapterError(f"{output} already exists. Choose another --output")


@contextmanager
def folder_beside(output: Path) -> Iterator[Path]:
    """Yield a temporary folder beside the output, and rename it to the output on success."""
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_adapter(
    sources: Sequence[LoraSource],
    merged: Mapping[str, LoraChange],
    rank: int,
    base_hub_id: str | None,
    folder: Path,
) -> None:
    """Write a plain peft folder.

    All modules get the same rank, because engines that serve adapters do not support a rank per module. The
    base is named by its hub id or, if that is not known, as in the first configuration that names no path.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for module, change in merged.items():
        padding = rank - len(change.a)
        keys = next(source.keys[module] for source in sources if module in source.keys)
        tensors[keys["a"]] = torch.nn.functional.pad(change.a, (0, 0, 0, padding)).contiguous()
        tensors[keys["b"]] = torch.nn.functional.pad(change.b, (0, padding)).contiguous()
    save_file(tensors, folder / adapter.WEIGHTS, metadata={"format": "pt"})
    names = [base_hub_id, *(source.config.get("base_model_name_or_path") for source in sources)]
    config = {
        **sources[0].config,
        "base_model_name_or_path": next((name for name in names if name and not is_local_path(name)), None),
        "r": rank,
        "lora_alpha": rank,  # the scaling is in the factors
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
        "layers_pattern": None,
        "exclude_modules": None,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "inference_mode": True,
        "target_modules": _targets(sources, merged),
    }
    (folder / adapter.CONFIG).write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def _targets(sources: Sequence[LoraSource], merged: Mapping[str, LoraChange]) -> list[str]:
    """Return the modules' last names if the adapters change every module of that name, else full names."""
    some_layers = any(source.config.get("layers_to_transform") is not None for source in sources)
    listed = all(isinstance(source.config.get("target_modules"), list) for source in sources)
    full = (
        some_layers or not listed or any("." in name for s in sources for name in s.config["target_modules"])
    )
    return sorted(merged if full else {module.rpartition(".")[2] for module in merged})
