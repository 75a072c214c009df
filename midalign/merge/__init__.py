"""Merge adapters that were trained separately into one.

A LoRA adapter changes a module's weight by `scaling * B @ A`. Merging works on these two thin matrices, read
from disk module by module. The base is needed only to score candidates or to merge into it.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from midalign import adapter
from midalign.adapter import Manifest
from midalign.errors import AdapterError
from midalign.merge.arithmetic import combine_changes, deviation
from midalign.merge.manifest import merged_manifest
from midalign.merge.output import folder_beside, refuse_existing, write_adapter
from midalign.merge.source import LoraChange, LoraSource, check_blocks, check_shapes
from midalign.merge.weights import MergeMethod, MergeWeights, check_choices, describe_merge
from midalign.model_card import write_card

DENSITY = 0.5


@dataclass(frozen=True)
class MergedAdapter:
    """A merged adapter on disk."""

    folder: Path
    rank: int
    modules: int
    error: float
    """Largest relative error of a module: the distance between the outputs of the merged change and of the
    exact weighted sum on random inputs, divided by the norm of the latter."""


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

    Methods:
        cat: concatenates the factors. Exact. Its rank is the sum of the adapters' ranks.
        svd: the best approximation of the sum with the given rank.
        linear: adds the factors, as peft does. The products of one adapter's factor with another's are an
            error, which `MergedAdapter.error` includes.
        ties, dare_linear, dare_ties: drop entries of the changes (`scaling * B @ A`) down to `density` by
            peft's functions, then as svd (arXiv 2306.01708, 2311.03099). The papers and peft's ties_svd,
            dare_linear_svd and dare_ties_svd do the same. peft's ties, dare_linear and dare_ties drop entries
            of the factors A and B instead, which gives another adapter.

    Args:
        sources: adapter folders.
        weights: how much of each.
        output: folder of the merged adapter, which must not exist.
        method: one of the above.
        rank: rank of svd, ties and dare. Default: the largest rank of the sources.
        density: share of entries that ties and dare keep. Default: DENSITY.
        seed: seed of the random choices of dare.

    Raises AdapterError for adapters of different bases, adapters that are not plain LoRA, options that the
    method does not have, weights that are all zero, and results that are not finite.
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

        # Merge module by module, so that one module's changes are in memory at a time.
        error, merged = 0.0, dict[str, LoraChange]()
        for module in sorted({module for source in opened for module in source.keys}):
            # An adapter that does not change the module adds nothing to it.
            changes = [
                (source.change(module), weight)
                for source, weight in zip(opened, weights.of(module), strict=True)
                if module in source.keys
            ]
            merged[module] = combine_changes(module, changes, method, rank, density or DENSITY)
            module_error = deviation(changes, merged[module])
            if not math.isfinite(module_error):
                raise AdapterError(
                    f"Merging {module} gives numbers that are not finite. Has a training diverged?"
                )
            error = max(error, module_error)

        widest = max(len(change.a) for change in merged.values())
        manifest = merged_manifest(sources, describe_merge(weights, method, rank, density))
        write_adapter(opened, merged, widest, manifest.base_hub_id if manifest else None, partial)
        if manifest:
            (partial / adapter.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
            write_card(partial)
    return MergedAdapter(output, widest, len(merged), error)


def _check_tokenizers(sources: Sequence[Path]) -> None:
    """Raise AdapterError if two adapters are known to be trained with different tokenizers."""
    manifests = ((folder, adapter.read_manifest(folder)) for folder in sources)
    known = [
        (folder, manifest.tokenizer_digest)
        for folder, manifest in manifests
        if manifest and manifest.tokenizer_digest
    ]
    for folder, digest in known[1:]:
        first, expected = known[0]
        if digest != expected:
            raise AdapterError(
                f"{first} and {folder} were trained with different tokenizers, chat templates or generation "
                f"settings (digests {expected[:12]} and {digest[:12]}). Only adapters of one base with one "
                f"tokenizer can be merged: train both with the same files"
            )


def _check_bases(sources: Sequence[Path]) -> None:
    """Raise AdapterError if two adapters have different bases, by digest or, without one, by name.

    Pairs of which one has neither are not compared. Their shapes are.
    """
    known = [(folder, *_known_base(folder)) for folder in sources]
    for (first, manifest, name), (second, other_manifest, other_name) in combinations(known, 2):
        if manifest and other_manifest:
            same = manifest.base_digest == other_manifest.base_digest
            names = manifest.base, other_manifest.base
        else:
            same = not (name and other_name) or Path(name).name == Path(other_name).name
            names = name, other_name
        if not same:
            raise AdapterError(
                f"{first} was trained on {names[0]} and {second} on {names[1]}, which have different "
                f"weights. Only adapters of one base can be merged"
            )


def _known_base(folder: Path) -> tuple[Manifest | None, str]:
    """Return an adapter's manifest and the name of its base, which is empty if no file has it."""
    manifest = adapter.read_manifest(folder)
    name = adapter.adapter_config(folder).get("base_model_name_or_path")
    return manifest, str(name or (manifest and (manifest.base_hub_id or manifest.base)) or "")
