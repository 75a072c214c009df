"""Adapters merged into temporary copies of their base, for an engine without cheap live adapters."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midalign.errors import EngineError
from midalign.evaluate import live

TOLERANCE = 1e-4
"""Largest difference of fp32 logits between merged and live adapter, as a share of the largest logit.

fp32 has 2^-23 = 1.2e-7; sums over thousands of terms in another order cost two to three digits of it.
"""


def merged_copies(
    base: str, adapters: Mapping[str, Path], logits: Mapping[str, Any], folder: Path
) -> dict[str, Path]:
    """Write base plus adapter, in fp32, to `folder/<number>` for each adapter, proved equal on the probe.

    `logits` are the live adapters' fp32 logits on the probe, by name. Raises EngineError when a copy, read
    back from disk, differs by more than TOLERANCE.
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
    model, tokenizer = live.load_with_adapters(str(copy), {}, "float32")
    difference = float((live.probe_logits(model, tokenizer, adapter) - expected).abs().max())
    allowed = TOLERANCE * float(expected.abs().max())
    if not difference <= allowed:
        shutil.rmtree(copy)
        raise EngineError(
            f"Merging {adapter} into its base changed what it does: on a probe logits differ by "
            f"{difference:.1e}, allowed are {allowed:.1e}. Use the engine with live adapters: --engine hf"
        )
