"""A merged adapter in the weights of its base."""

import shutil
from pathlib import Path

from midalign import adapter, bases
from midalign.errors import AdapterError
from midalign.merge.output import folder_beside, refuse_existing

SAME = 1e-3
"""Logits of base and adapter and of both in one, at most so far apart, as a share of the largest."""


def merge_into_base(merged: Path, base: str, output: Path) -> None:
    """Write `base` with a merged adapter in its weights, fp32, and its tokenizer, to `output`.

    Raises AdapterError where that is another model than base and adapter: peft adds a change of the
    embeddings to weights that the output layer may share.
    """
    from midalign.evaluate import live

    refuse_existing(output)
    source = str(bases.resolve(base))
    adapter.check(merged, source)
    model, tokenizer = live.load(source, {"merged": merged}, "float32")
    live.switch(model, "merged")
    expected = live.probe_logits(model, tokenizer)
    whole = live.merged(model, "merged")
    apart = float((live.probe_logits(whole, tokenizer) - expected).abs().max() / expected.abs().max())
    if not apart < SAME:
        raise AdapterError(
            f"In one with {base}, the merged adapter is another model: logits on a probe are {apart:.0%} "
            f"apart. It changes embeddings that the output layer shares. Keep it apart: leave out --into-base"
        )
    with folder_beside(output) as partial:
        whole.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if (merged / adapter.MANIFEST).is_file():  # evaluations take the training text from it
            shutil.copyfile(merged / adapter.MANIFEST, partial / adapter.MANIFEST)
