"""Seconds to merge two rank-8 adapters of an 8B-shaped Llama, from disk to disk, beside copying both.

python scripts/benchmarks/merge.py
"""

import json
import shutil
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from midalign import adapter
from midalign.merge import merge_adapters
from midalign.merge.weights import MergeWeights

HIDDEN, WIDE, KEYS, BLOCKS, RANK = 4096, 14336, 1024, 32, 8
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDE, HIDDEN),
    "mlp.up_proj": (WIDE, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDE),
}


def random_adapter(folder: Path) -> Path:
    """Random factors of all linear layers, fp32."""
    folder.mkdir()
    tensors = {}
    for block in range(BLOCKS):
        for name, (gives, takes) in SHAPES.items():
            prefix = f"base_model.model.model.layers.{block}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(RANK, takes)
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(gives, RANK)
    save_file(tensors, folder / adapter.WEIGHTS)
    names = [name.rpartition(".")[2] for name in SHAPES]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": names}
    (folder / adapter.CONFIG).write_text(json.dumps({**config, "base_model_name_or_path": "8B"}))
    return folder


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sources = [random_adapter(folder / name) for name in ("task", "align")]
        start = time.perf_counter()
        for source in sources:
            shutil.copytree(source, folder / f"copy of {source.name}")
        copied = time.perf_counter() - start
        for method in ("cat", "svd", "linear"):
            start = time.perf_counter()
            found = merge_adapters(sources, MergeWeights((1.0, 0.5)), folder / method, method=method)
            seconds = time.perf_counter() - start
            print(
                f"{method:6} {seconds:5.2f} s, {seconds / copied:5.1f} times copying both; "
                f"rank {found.rank}, {found.modules} modules, {100 * found.error:.2g}% from the weighted sum"
            )


if __name__ == "__main__":
    main()
