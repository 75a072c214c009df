"""Adapters trained apart, merged into one: how much of each, by which method, and how exact that is.

A LoRA adapter changes a module's weight by `scaling * B @ A`. Merging works on these two thin matrices, read
from disk module by module: the base is needed only to score candidates or to merge into it.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from midalign import adapter
from midalign.errors import AdapterError
from midalign.merge.arithmetic import combine_changes, deviation
from midalign.merge.manifest import merged_manifest
from midalign.merge.output import folder_beside, refuse_existing, write_adapter
from midalign.merge.source import LoraChange, LoraSource, check_blocks, check_shapes
from midalign.merge.weights import MergeMethod, MergeWeights, check_choices, describe_merge

DENSITY = 0.5


@dataclass(frozen=True)
class MergedAdapter:
    """A merged adapter on disk."""

    folder: Path
    rank: int
    modules: int
    error: float
    """Largest distance between what a module's merged change and the weighted sum of the changes make of
    random inputs, over the length of the latter: 0 is exact."""


def merge_adapters(
    sources: Sequence[Path],
    weights: MergeWeights,
    output: Path,
    *,
    method: MergeMethod = "cat",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> MergedAdapter:
    """Write the adapters' weighted sum to `output`.

    cat: the factors side by side, exact, of as many ranks as all have together. svd: the nearest sum of
    `rank` (the largest source's without one). linear: the factors added, as peft does it; its products of one
    adapter's factor with another's are an error that `Merged.error` states. ties, dare_linear, dare_ties: as
    svd after entries were dropped down to `density` (half without one), by peft's functions (arXiv
    2306.01708, 2311.03099). They work on whole changes (`scaling * B @ A`), as the papers do and as peft's
    ties_svd, dare_linear_svd and dare_ties_svd do. peft's methods named ties, dare_linear and dare_ties drop
    entries of the factors A and B instead, which gives another adapter.

    Raises AdapterError for adapters that do not belong together or are not plain LoRA, for what a method does
    not have, weights that leave nothing, and numbers that are not finite.
    """
    import torch

    refuse_existing(output)
    _check_bases(sources)
    _check_tokenizers(sources)
    check_choices(weights, method, rank, density)
    torch.manual_seed(seed)
    with ExitStack() as files, folder_beside(output) as partial:
        opened = [LoraSource(folder, files) for folder in sources]
        check_shapes(opened)
        check_blocks(opened, weights)
        error, merged = 0.0, dict[str, LoraChange]()
        for module in sorted({module for source in opened for module in source.keys}):
            # A module that an adapter leaves alone is changed by the others' part.
            own = [
                (source.change(module), weight)
                for source, weight in zip(opened, weights.of(module), strict=True)
                if module in source.keys
            ]
            merged[module] = combine_changes(module, own, method, rank, density or DENSITY)
            own_error = deviation(own, merged[module])
            if not math.isfinite(own_error):
                raise AdapterError(
                    f"{module} of these adapters, so weighted, is not finite. Has one's training diverged?"
                )
            error = max(error, own_error)
        widest = max(len(change.a) for change in merged.values())
        write_adapter(opened, merged, widest, partial)
        manifest = merged_manifest(sources, describe_merge(weights, method, rank, density))
        if manifest:
            (partial / adapter.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    return MergedAdapter(output, widest, len(merged), error)


def _check_tokenizers(sources: Sequence[Path]) -> None:
    """Raise AdapterError where two adapters are known to be trained with different tokenizers."""
    manifests = ((folder, adapter.read_manifest(folder)) for folder in sources)
    known = [(folder, one.tokenizer_digest) for folder, one in manifests if one and one.tokenizer_digest]
    for folder, digest in known[1:]:
        first, expected = known[0]
        if digest != expected:
            raise AdapterError(
                f"{first} and {folder} were trained with different tokenizers, chat templates or generation "
                f"settings (digests {expected[:12]} and {digest[:12]}). Only adapters of one base with one "
                f"tokenizer can be merged: train both with the same files"
            )


def _check_bases(sources: Sequence[Path]) -> None:
    """Raise AdapterError where two adapters have different bases, by digest or, without one, by name."""
    known = [
        (adapter.read_manifest(folder), adapter.config(folder).get("base_model_name_or_path"))
        for folder in sources
    ]
    first, name = known[0]
    for folder, (manifest, other) in zip(sources[1:], known[1:], strict=True):
        if first and manifest:
            same, names = first.base_digest == manifest.base_digest, (first.base, manifest.base)
        else:
            same, names = Path(str(name)).name == Path(str(other)).name, (str(name), str(other))
        if not same:
            raise AdapterError(
                f"{sources[0]} was trained on {names[0]}, {folder} on {names[1]}, and these are not the same "
                f"weights. Only adapters of one base can be merged"
            )
