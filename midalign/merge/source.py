"""LoRA adapters on disk, read module by module."""

import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from midalign import adapter
from midalign.errors import AdapterError
from midalign.merge.weights import MergeWeights, block_number

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraChange:
    """An adapter's change of a module's weight: `scaling * b @ a`."""

    a: "Tensor"
    """(rank, inputs), fp32."""
    b: "Tensor"
    """(outputs, rank), fp32."""
    scaling: float = 1.0


class LoraSource:
    """An adapter's changes by module."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.config = adapter.config(folder)
        known = adapter.shapes(folder / adapter.WEIGHTS)
        # If embeddings are targets, peft stores copies of the base's weights too.
        shapes = {key: shape for key, shape in known.items() if ".base_layer." not in key}
        self._check(shapes)
        self.file = files.enter_context(safe_open(folder / adapter.WEIGHTS, "pt"))
        self.keys: dict[str, dict[str, str]] = {}
        self.shapes: dict[str, tuple[int, int]] = {}
        """(outputs, inputs) by module."""
        for key in shapes:
            module, _, rest = key.removeprefix(PREFIX).partition(".lora_")
            side = "a" if rest.split(".")[0].endswith("A") else "b"
            self.keys.setdefault(module, {})[side] = key
        for module, keys in self.keys.items():
            if len(keys) != 2:
                raise AdapterError(f"{folder} lacks a factor of {module}. Copy the adapter again")
            self.shapes[module] = shapes[keys["b"]][0], shapes[keys["a"]][1]

    def change(self, module: str) -> LoraChange:
        """Return the module's change, scaled as peft scales it when it loads the adapter."""
        a, b = (self.file.get_tensor(self.keys[module][side]).float() for side in ("a", "b"))
        rank = len(a)
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        scaling = alpha / (rank**0.5 if self.config.get("use_rslora") else rank)
        return LoraChange(a, b, scaling)

    def _check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise AdapterError unless the adapter only adds products of two matrices to the base's weights."""
        if self.config["peft_type"] != "LORA":
            raise AdapterError(
                f"{self.folder} has peft_type {self.config['peft_type']}. Only LORA can be merged"
            )
        if self.config.get("use_dora"):
            raise AdapterError(
                f"{self.folder} is a DoRA adapter: it also rescales the base's weights, so changes do not "
                f"add up. Train with plain LoRA, or merge it into its base with peft's merge_and_unload"
            )
        if self.config.get("target_parameters"):
            raise AdapterError(
                f"{self.folder} changes parameters that are not modules (target_parameters: "
                f"{', '.join(self.config['target_parameters'])}), such as all experts of a layer at once. "
                f"Their factors cannot be concatenated. Train with target_modules alone"
            )
        start = self.config.get("init_lora_weights")
        if start not in adapter.PLAIN_STARTS:
            raise AdapterError(
                f"{self.folder} was initialised by {start}, which changes the base's weights too. "
                f"Save it as plain LoRA first (save_pretrained, path_initial_model_for_weight_conversion)"
            )
        other = [name for name, shape in shapes.items() if ".lora_" not in name or len(shape) != 2]
        if other:
            raise AdapterError(
                f"{self.folder} holds more than LoRA matrices ({other[0]} and {len(other) - 1} others): "
                f"whole modules, biases and convolutions cannot merge. Train without modules_to_save and bias"
            )


def _by_pattern(patterns: Mapping[str, float] | None, module: str, otherwise: float) -> float:
    """Return the value of the first pattern that the module's name ends with, as peft chooses alpha."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def check_blocks(sources: Sequence[LoraSource], weights: MergeWeights) -> None:
    """Raise AdapterError if weights are for blocks that no adapter changes."""
    changed = {
        block for source in sources for module in source.keys if (block := block_number(module)) is not None
    }
    for blocks, _ in weights.in_blocks:
        if not changed & set(blocks):
            raise AdapterError(
                f"--in-blocks {blocks.start}-{blocks.stop - 1}: the adapters change nothing there, but in "
                f"blocks {min(changed)} to {max(changed)}"
                if changed
                else f"--in-blocks {blocks.start}-{blocks.stop - 1}: the adapters change no block by number"
            )


def check_shapes(sources: Sequence[LoraSource]) -> None:
    """Raise AdapterError if two adapters have different shapes of a module."""
    first: dict[str, tuple[tuple[int, int], Path]] = {}
    for source in sources:
        for module, shape in source.shapes.items():
            expected, folder = first.setdefault(module, (shape, source.folder))
            if shape != expected:
                raise AdapterError(
                    f"{module} has {expected[1]} inputs and {expected[0]} outputs in {folder}, but "
                    f"{shape[1]} and {shape[0]} in {source.folder}: these are adapters of different bases"
                )
