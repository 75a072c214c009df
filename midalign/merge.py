"""Adapters trained apart, merged into one: how much of each, by which method, and how exact that is.

A LoRA adapter changes a module's weight by `scaling * B @ A`. Merging works on these two thin matrices, read
from disk module by module: the base is needed only to score candidates or to merge into it.
"""

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from midalign import adapter, bases, record
from midalign.adapter import Manifest, Parent, RecipeRef
from midalign.errors import AdapterError
from midalign.evaluate.settings import EvalReporter, EvalSettings
from midalign.languages import role_of
from midalign.locks import locked
from midalign.metrics import scorer
from midalign.train.run import LOG

if TYPE_CHECKING:
    from torch import Tensor


Method = Literal["cat", "svd", "linear", "ties", "dare_linear", "dare_ties"]
SPARSE = ("ties", "dare_linear", "dare_ties")
CHOOSE_RANK = ("svd", *SPARSE)
NAME = 80
"""Characters of a merged adapter's name, which files are called by."""
PREFIX = "base_model.model."
DENSITY = 0.5
PROBES = 8
"""Random inputs of a module on which a merge is held against the weighted sum of the changes."""

SAME = 1e-3
"""Logits of base and adapter and of both in one, at most so far apart, as a share of the largest."""


@dataclass(frozen=True)
class Weights:
    """How much of each adapter, and where in the network otherwise."""

    everywhere: tuple[float, ...]
    in_blocks: tuple[tuple[range, tuple[float, ...]], ...] = ()
    """For some blocks others, as in layer swapping (arXiv 2410.01335); the last that holds a block counts."""

    def of(self, module: str) -> tuple[float, ...]:
        """Those of a module, by the number of its block."""
        block = _block(module)
        chosen = self.everywhere
        for blocks, weights in self.in_blocks:
            if block in blocks:
                chosen = weights
        return chosen

    def __str__(self) -> str:
        parts = [_ratio(self.everywhere)]
        parts += [f"{_ratio(w)} in {b.start}-{b.stop - 1}" for b, w in self.in_blocks]
        return ", ".join(parts)


def _block(module: str) -> int | None:
    """Number of a module's block, from 0."""
    found = re.search(r"\.(\d+)\.", f".{module}.")
    return int(found[1]) if found else None


def file_name(text: str) -> str:
    """Text as a part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text)


def _shortened(name: str) -> str:
    """A name that files can have: of a long one the beginning, and a digest of all of it."""
    return name if len(name) <= NAME else f"{name[: NAME - 9]}-{_sha256(name)[:8]}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _ratio(weights: Sequence[float]) -> str:
    return ":".join(f"{weight:g}" for weight in weights)


@dataclass(frozen=True)
class Change:
    """What an adapter adds to a module's weight: `scaling * b @ a`."""

    a: "Tensor"
    """(rank, inputs), fp32."""
    b: "Tensor"
    """(outputs, rank), fp32."""
    scaling: float = 1.0


@dataclass(frozen=True)
class Merged:
    """A merged adapter on disk."""

    folder: Path
    rank: int
    modules: int
    error: float
    """Largest distance between what a module's merged change and the weighted sum of the changes make of
    random inputs, over the length of the latter: 0 is exact."""


class Source:
    """An adapter's changes by module."""

    def __init__(self, folder: Path, files: ExitStack) -> None:
        from safetensors import safe_open

        self.folder = folder
        self.config = adapter.adapter_config(folder)
        known = adapter.tensor_shapes(folder / adapter.WEIGHTS)
        # With embeddings among the targets, peft puts copies of the base's own weights into the file.
        shapes = {key: shape for key, shape in known.items() if ".base_layer." not in key}
        self._check(shapes)
        self.file = files.enter_context(safe_open(folder / adapter.WEIGHTS, "pt"))
        self.keys: dict[str, dict[str, str]] = {}
        self.shapes: dict[str, tuple[int, int]] = {}
        """(outputs, inputs) by module, as the factors have them."""
        for key in shapes:
            module, _, rest = key.removeprefix(PREFIX).partition(".lora_")
            side = "a" if rest.split(".")[0].endswith("A") else "b"
            self.keys.setdefault(module, {})[side] = key
        for module, keys in self.keys.items():
            if len(keys) != 2:
                raise AdapterError(f"{folder} has half of a change of {module}. Copy the adapter again")
            self.shapes[module] = shapes[keys["b"]][0], shapes[keys["a"]][1]

    def change(self, module: str) -> Change:
        """The module's change, with the scaling that peft gives it when it loads the adapter."""
        a, b = (self.file.get_tensor(self.keys[module][side]).float() for side in ("a", "b"))
        rank = len(a)
        alpha = _by_pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        scaling = alpha / (rank**0.5 if self.config.get("use_rslora") else rank)
        return Change(a, b, scaling)

    def _check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise AdapterError for what is more than a product of two matrices added to a base's weights."""
        if self.config["peft_type"] != "LORA":
            raise AdapterError(f"{self.folder} is of peft_type {self.config['peft_type']}. Only LORA merges")
        if self.config.get("use_dora"):
            raise AdapterError(
                f"{self.folder} is a DoRA adapter: it scales the base's weights too, which does not "
                f"add up with another adapter. Train with plain LoRA, or merge_and_unload it by peft"
            )
        if self.config.get("target_parameters"):
            raise AdapterError(
                f"{self.folder} changes parameters that are no module of their own (target_parameters: "
                f"{', '.join(self.config['target_parameters'])}), such as all experts of a layer at once: "
                f"their factors do not stand side by side. Train with target_modules alone"
            )
        start = self.config.get("init_lora_weights")
        if start not in adapter.PLAIN_STARTS:
            raise AdapterError(
                f"{self.folder} was begun by {start}, which changes the base's weights as well. "
                f"Save it as plain LoRA first (save_pretrained, path_initial_model_for_weight_conversion)"
            )
        other = [name for name, shape in shapes.items() if ".lora_" not in name or len(shape) != 2]
        if other:
            raise AdapterError(
                f"{self.folder} holds more than LoRA matrices ({other[0]} and {len(other) - 1} others): "
                f"whole modules, biases and convolutions do not merge. Train without modules_to_save and bias"
            )


def _by_pattern(patterns: Mapping[str, float] | None, module: str, otherwise: float) -> float:
    """As peft chooses alpha: the first pattern that the module's name ends with."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise


def merge(
    sources: Sequence[Path],
    weights: Weights,
    output: Path,
    *,
    method: Method = "cat",
    rank: int | None = None,
    density: float | None = None,
    seed: int = 0,
) -> Merged:
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
    _check_choices(weights, method, rank, density)
    torch.manual_seed(seed)
    with ExitStack() as files, _beside(output) as partial:
        opened = [Source(folder, files) for folder in sources]
        _check_shapes(opened)
        _check_blocks(opened, weights)
        error, merged = 0.0, dict[str, Change]()
        for module in sorted({module for source in opened for module in source.keys}):
            # A module that an adapter leaves alone is changed by the others' part.
            own = [
                (source.change(module), weight)
                for source, weight in zip(opened, weights.of(module), strict=True)
                if module in source.keys
            ]
            merged[module] = _combine(module, own, method, rank, density or DENSITY)
            own_error = _error(own, merged[module])
            if not math.isfinite(own_error):
                raise AdapterError(
                    f"{module} of these adapters, so weighted, is not finite. Has one's training diverged?"
                )
            error = max(error, own_error)
        widest = max(len(change.a) for change in merged.values())
        _write(opened, merged, widest, partial)
        manifest = _manifest(sources, described(weights, method, rank, density))
        if manifest:
            (partial / adapter.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    return Merged(output, widest, len(merged), error)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A folder that gets the name when it is whole."""
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(output: Path) -> None:
    """Raise AdapterError where something of this name is there."""
    if output.exists():
        raise AdapterError(f"{output} is there already. Write elsewhere: --output OTHER")


def _check_choices(weights: Weights, method: Method, rank: int | None, density: float | None) -> None:
    """Raise AdapterError for what the method does not have, and for weights without an effect."""
    if rank is not None and method not in CHOOSE_RANK:
        raise AdapterError(f"{method} has the rank that it has; one is chosen with {', '.join(CHOOSE_RANK)}")
    if density is not None and method not in SPARSE:
        raise AdapterError(f"{method} keeps all entries; a density is for {', '.join(SPARSE)}")
    every = [
        weight for several in (weights.everywhere, *(w for _, w in weights.in_blocks)) for weight in several
    ]
    if not all(map(math.isfinite, every)):
        raise AdapterError(f"weights {weights}: expected finite numbers, such as 1,0.5")
    if not any(every):
        raise AdapterError(f"weights {weights} leave nothing of any adapter; give one another weight than 0")


def _check_blocks(sources: Sequence[Source], weights: Weights) -> None:
    """Raise AdapterError where weights are for blocks that no adapter changes."""
    there = {block for source in sources for module in source.keys if (block := _block(module)) is not None}
    for blocks, _ in weights.in_blocks:
        if not there & set(blocks):
            raise AdapterError(
                f"--in-blocks {blocks.start}-{blocks.stop - 1}: the adapters change nothing there, but in "
                f"blocks {min(there)} to {max(there)}"
                if there
                else f"--in-blocks {blocks.start}-{blocks.stop - 1}: the adapters change no block by number"
            )


def described(weights: Weights, method: Method, rank: int | None, density: float | None) -> str:
    """How adapters were merged, such as `1:0.5` (by cat) or `ties 1:0.5 rank 8 density 0.2`."""
    how = str(weights) if method == "cat" else f"{method} {weights}"
    how += f" rank {rank}" if rank is not None else ""
    return f"{how} density {density:g}" if density is not None else how


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
        (adapter.read_manifest(folder), adapter.adapter_config(folder).get("base_model_name_or_path"))
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


def _check_shapes(sources: Sequence[Source]) -> None:
    found: dict[str, tuple[tuple[int, int], Path]] = {}
    for source in sources:
        for module, shape in source.shapes.items():
            expected, where = found.setdefault(module, (shape, source.folder))
            if shape != expected:
                raise AdapterError(
                    f"{module} takes {expected[1]} and gives {expected[0]} numbers in {where}, {shape[1]} "
                    f"and {shape[0]} in {source.folder}: these are adapters of different bases"
                )


def _combine(
    module: str, own: Sequence[tuple[Change, float]], method: Method, rank: int | None, density: float
) -> Change:
    """One module's weighted changes in one."""
    import torch

    chosen = rank or max(len(change.a) for change, _ in own)
    if method in ("cat", "svd"):
        a = torch.cat([change.a for change, _ in own])
        b = torch.cat([change.b * (weight * change.scaling) for change, weight in own], dim=1)
        if method == "cat":
            return Change(a, b)
        # Of a product of thin matrices, from the small one between their orthogonal bases.
        left, upper = torch.linalg.qr(b)
        right, lower = torch.linalg.qr(a.T)
        u, s, vh = torch.linalg.svd(upper @ lower.T)
        return _of_svd(left @ u, s, vh @ right.T, chosen)
    if method == "linear":
        if len({len(change.a) for change, _ in own}) > 1:
            raise AdapterError(f"linear adds factors, and those of {module} differ in rank. Use cat or svd")
        total = [weight * change.scaling for change, weight in own]
        # Shared out evenly between the factors, as peft does it: a negative weight's sign goes to A.
        a = torch.stack([c.a * math.copysign(abs(t) ** 0.5, t) for (c, _), t in zip(own, total, strict=True)])
        b = torch.stack([c.b * abs(t) ** 0.5 for (c, _), t in zip(own, total, strict=True)])
        return Change(a.sum(0), b.sum(0))
    from peft.utils import merge_utils

    sparse: Callable[..., Tensor] = getattr(merge_utils, method)
    whole = [c.scaling * c.b @ c.a for c, _ in own]
    mixed = sparse(whole, torch.tensor([weight for _, weight in own]), density)
    u, s, v = torch.svd_lowrank(mixed, min(2 * chosen + 8, *mixed.shape), niter=8)
    return _of_svd(u, s, v.T, chosen)


def _of_svd(u: "Tensor", s: "Tensor", vh: "Tensor", rank: int) -> Change:
    root = s[:rank].sqrt()
    return Change(root.unsqueeze(1) * vh[:rank], u[:, :rank] * root)


def _error(own: Sequence[tuple[Change, float]], merged: Change) -> float:
    """`Merged.error` of one module."""
    import torch

    inputs = torch.randn(merged.a.shape[1], PROBES)
    parts = [weight * change.scaling * (change.b @ (change.a @ inputs)) for change, weight in own]
    expected = torch.stack(parts).sum(0)
    found = merged.b @ (merged.a @ inputs)
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


def _write(sources: Sequence[Source], merged: Mapping[str, Change], rank: int, folder: Path) -> None:
    """A plain peft folder of one rank: engines that serve adapters want no module to differ."""
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for module, change in merged.items():
        more = rank - len(change.a)
        keys = next(source.keys[module] for source in sources if module in source.keys)
        tensors[keys["a"]] = torch.nn.functional.pad(change.a, (0, 0, 0, more)).contiguous()
        tensors[keys["b"]] = torch.nn.functional.pad(change.b, (0, more)).contiguous()
    save_file(tensors, folder / adapter.WEIGHTS, metadata={"format": "pt"})
    config = {
        **sources[0].config,
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


def _targets(sources: Sequence[Source], merged: Mapping[str, Change]) -> list[str]:
    """Last names of the modules where the adapters changed all that are called so, else full names."""
    partly = any(source.config.get("layers_to_transform") is not None for source in sources)
    listed = all(isinstance(source.config.get("target_modules"), list) for source in sources)
    full = partly or not listed or any("." in name for s in sources for name in s.config["target_modules"])
    return sorted(merged if full else {module.rpartition(".")[2] for module in merged})


def _manifest(sources: Sequence[Path], how: str) -> Manifest | None:
    """What is known of the parents together; None where one of them has none.

    The first is the task's. Languages of others are supervised where these were trained on a task as well,
    and aligned where they were aligned.
    """
    known = [adapter.read_manifest(folder) for folder in sources]
    parents = [manifest for manifest in known if manifest is not None]
    if len(parents) != len(sources):
        return None
    task, *others = parents
    of_task = [
        task,
        *(one for one, folder in zip(others, sources[1:], strict=True) if _trained_on_task(one, folder)),
    ]
    of_alignment = [one for one in parents if one.layer is not None]
    supervised = dict.fromkeys(code for one in of_task for code in one.supervised)
    aligned = dict.fromkeys(code for one in of_alignment or [task] for code in one.aligned)
    first = next(iter(of_alignment), task)
    overlap = dict.fromkeys(one for parent in parents for one in parent.overlap or [])
    dtypes = {parent.dtype for parent in parents if parent.dtype}
    texts = [parent.training_text for parent in parents]
    trained_on = dict.fromkeys(text for known in texts for text in known or [])
    recipe = RecipeRef(
        name=task.recipe.name,
        digest=_sha256(" ".join(parent.recipe.digest for parent in parents)),
        baseline=task.recipe.baseline or task.recipe.digest,
    )
    return task.model_copy(
        update={
            "name": _shortened("+".join(parent.name for parent in parents) + f"@{file_name(how)}"),
            "arm": f"merged {how}",
            "recipe": recipe,
            "supervised": list(supervised),
            "aligned": [code for code in aligned if code not in supervised],
            "unseen": [code for code in task.unseen if role_of(code, supervised, aligned) == "unseen"],
            "layer": first.layer,
            "pairs": first.pairs,
            "updates": sum(parent.updates for parent in parents),
            "tokens": sum(parent.tokens for parent in parents),
            "seconds": sum(parent.seconds for parent in parents),
            "packages": adapter.package_versions(),
            "training": {},
            "tokenizer_digest": next(filter(None, (one.tokenizer_digest for one in parents)), None),
            "dtype": ", ".join(sorted(dtypes)) if all(parent.dtype for parent in parents) else None,
            "trained_on": None if None in texts else list(trained_on),
            "overlap": list(overlap) if all(parent.overlap is not None for parent in parents) else None,
            "parents": [
                Parent(name=parent.name, digest=adapter.adapter_digest(folder))
                for parent, folder in zip(parents, sources, strict=True)
            ],
        }
    )


def _trained_on_task(manifest: Manifest, folder: Path) -> bool:
    """Return whether an update of the adapter's training had task samples.

    The last losses do not tell where alignment alternates with the task, so the log beside the adapter does.
    """
    if "task" in manifest.training or manifest.parents:
        return True
    log = folder / LOG
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    return any("task" in json.loads(line).get("losses", {}) for line in lines)


def into_base(merged: Path, base: str, output: Path) -> None:
    """Write `base` with a merged adapter in its weights, fp32, and its tokenizer, to `output`.

    Raises AdapterError where that is another model than base and adapter: peft adds a change of the
    embeddings to weights that the output layer may share.
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
            f"In one with {base}, the merged adapter is another model: logits on a probe are {apart:.0%} "
            f"apart. It changes embeddings that the output layer shares. Keep it apart: leave out --into-base"
        )
    with _beside(output) as partial:
        whole.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if (merged / adapter.MANIFEST).is_file():  # evaluations take the training text from it
            shutil.copyfile(merged / adapter.MANIFEST, partial / adapter.MANIFEST)


@dataclass(frozen=True)
class Candidate:
    """Weights that a search has tried."""

    weights: Weights
    folder: Path
    score: float
    """Mean of the tasks' headline metrics on the validation split, as a share."""


def search(
    sources: Sequence[Path],
    weights: Sequence[Weights],
    folder: Path,
    *,
    base: str,
    tasks: Sequence[str],
    limit: int | None,
    report: EvalReporter,
    method: Method = "cat",
    rank: int | None = None,
    density: float | None = None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
) -> list[Candidate]:
    """Merge by each of some weights and score on the validation split, the best first.

    Candidates and their records stay in `folder`, named by all that decides them: a search that was cut off
    goes on from there, and one of other adapters or tasks does not take them for its own.
    """
    from midalign.evaluate import run
    from midalign.leaderboard.load import verified

    parents = [adapter.adapter_digest(one) for one in sources]
    tried = list(dict.fromkeys(weights))
    for one in tried:
        _check_choices(one, method, rank, density)
    folders = []
    for one in tried:
        how = described(one, method, rank, density)
        folders.append(folder / _sha256(json.dumps([parents, how]))[:12])
        with locked(folders[-1]):
            if not folders[-1].exists():
                merge(sources, one, folders[-1], method=method, rank=rank, density=density)
    source = bases.resolve(base)
    scored = [sorted(tasks), limit, adapter.base_digest(source), adapter.tokenizer_digest(source)]
    if apply_chat_template or system_instruction is not None:
        scored += [apply_chat_template, system_instruction]
    settings = EvalSettings(
        base=base,
        tasks=tuple(tasks),
        output=folder / f"results-{_sha256(json.dumps(scored))[:12]}",
        adapters=tuple(folders),
        adapters_only=True,
        split="validation",
        limit=limit,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
    )
    scores = [_score(verified(path)) for path in run.evaluate(settings, report)]
    found = [Candidate(*one) for one in zip(tried, folders, scores, strict=True)]
    return sorted(found, key=lambda one: -one.score)


def _score(entry: record.Record) -> float:
    """`Candidate.score`; of a metric in per cent its hundredth."""
    shares = []
    for task in entry.tasks.values():
        name, headline = next(iter(task.metrics.items()))
        if headline.value is not None:
            shares.append(headline.value / (100 if name in scorer(task.family).PERCENT else 1))
    return sum(shares) / len(shares) if shares else 0.0
