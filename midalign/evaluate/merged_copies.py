"""Temporary copies of a base with adapters merged into their weights, for engines with slow live adapters."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midalign.errors import EngineError
from midalign.evaluate import live

TOLERANCE = 1e-4
"""Largest difference of fp32 logits between merged and live adapter, as a share of the largest logit.

fp32 has a precision of 2^-23 = 1.2e-7. Sums of thousands of terms in another order lose two to three digits.
"""


def merged_copies(
    base: str, adapters: Mapping[str, Path], logits: Mapping[str, Any], folder: Path
) -> dict[str, Path]:
    """Write base plus adapter, in fp32, to `folder/<number>` for each adapter, and return the copies by name.

    `logits` are the live adapters' fp32 logits on the probe, by name. Raises EngineError if those of a copy,
    read back from disk, differ by more than TOLERANCE.
    """
    copies = {}
    for number, (name, adapter) in enumerate(adapters.items()):
        model, tokenizer = live.load_with_adapters(base, {name: adapter}, "float32")
        copy = folder / str(number)
        live.merged(model, name).save_pretrained(copy)
        tokenizer.save_pretrained(copy)
        _prove_equal(copy, adapter, logits[name])
        copies[name] = copy
    return copies


def _prove_equal(copy: Path, adapter: Path, expected: Any) -> None:
    """Raise EngineError and remove the copy if its logits on the probe are not the expected ones."""
    model, tokenizer = live.load_with_adapters(str(copy), {}, "float32")
    difference = float((live.probe_logits(model, tokenizer, adapter) - expected).abs().max())
    allowed = TOLERANCE * float(expected.abs().max())
    if not difference <= allowed:
        shutil.rmtree(copy)
        raise EngineError(
            f"Merging {adapter} into its base changed its outputs: its logits on a probe differ by "
            f"{difference:.1e}, more than {allowed:.1e}. Use the engine with live adapters: --engine hf"
        )
