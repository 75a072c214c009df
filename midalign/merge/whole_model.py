"""Merge an adapter into the weights of its base."""

import shutil
from pathlib import Path

from midalign import adapter, bases
from midalign.errors import AdapterError
from midalign.merge.output import folder_beside, refuse_existing
from midalign.model_card import write_card

SAME = 1e-3
"""Largest relative difference between the logits of base plus adapter and of the merged model."""


def merge_into_base(merged: Path, base: str, output: Path) -> None:
    """Write `base` with the adapter merged into its weights, in fp32, and the tokenizer to `output`.

    Raises AdapterError if the result differs from base plus adapter. This happens if the adapter changes
    embeddings that the output layer shares.
    """
    from midalign.evaluate import live

    refuse_existing(output)
    source = str(bases.resolve(base))
    adapter.check_adapter(merged, source)
    model, tokenizer = live.load_with_adapters(source, {"merged": merged}, "float32")
    live.switch(model, "merged")
    expected = live.probe_logits(model, tokenizer)
    whole = live.merged(model, "merged")
    apart = float((live.probe_logits(whole, tokenizer) - expected).abs().max() / expected.abs().max())
    if not apart < SAME:
        raise AdapterError(
            f"{base} with the adapter merged into its weights is another model: its logits on a probe differ "
            f"by {apart:.0%}. The adapter changes embeddings that the output layer shares. Omit --into-base"
        )
    with folder_beside(output) as partial:
        whole.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if (merged / adapter.MANIFEST).is_file():  # evaluations take the training text from it
            shutil.copyfile(merged / adapter.MANIFEST, partial / adapter.MANIFEST)
            write_card(partial)
