"""A base in memory with adapters, each attached to the bare base, and the proof that they do not mix."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midalign import adapter as adapter_files
from midalign.bases import load_model_and_tokenizer
from midalign.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor, nn

    Contents = Mapping[nn.Module, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]
    """Children, parameters and buffers of modules, by reference."""

PROBE = "Utterance: wake me up at nine am on friday\nSlots:"
"""A prompt like those of the tasks. Any text on which models differ would do."""

SILENT = 1e-6
"""Logits are equal if they differ by less than this share of the largest. fp32 has a precision of 2^-23."""

PEFT_NAME = "adapter"
"""Name of every adapter in peft, where each has a model of its own."""


@dataclass(frozen=True)
class AttachedAdapter:
    """An adapter with all modules, parameters and buffers of the model that it is attached to."""

    contents: "Contents"
    peft_model: Any


def load_with_adapters(base: str, adapters: Mapping[str, Path], dtype: str) -> tuple[Any, Any]:
    """Load a base on this machine's device, and its tokenizer, with adapters that `switch` finds by name.

    No adapter acts yet. Weights are as transformers loads them in `dtype`, "float32" or "bfloat16".
    Raises BaseModelError or AdapterError.
    """
    import torch

    from midalign.device import device

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    model, tokenizer = load_model_and_tokenizer(base, dtype=getattr(torch, dtype))
    model = model.to(device()).eval()
    attach(model, tokenizer, adapters)
    return model, tokenizer


def attach(model: Any, tokenizer: Any, adapters: Mapping[str, Path]) -> None:
    """Attach each adapter to the bare base, and prove that base and adapters answer as they do alone.

    `switch` exchanges references to modules and weights later. The proof takes two digests of the weights and
    two forward passes per model. It compares

    1. the sha256 of the base's weights after the last adapter with that before the first,
    2. the base's logits on the probe likewise, within SILENT,
    3. each adapter's logits on the probe with those that peft gave while no other adapter was attached.

    Raises AdapterError for an adapter that peft cannot attach, or attaches in part, and if the proof fails.
    """
    if not adapters:
        return
    # 1. Attach each adapter to the bare base, and take its logits while it is alone.
    digest, logits = weights_digest(model), probe_logits(model, tokenizer)
    model.bare_contents, model.attached_adapters = _contents(model), {}
    alone = {}
    for name, folder in adapters.items():
        model.attached_adapters[name], alone[name] = _attach_to_bare(model, tokenizer, folder)
        switch(model, None)
    # 2. Compare each adapter with itself alone.
    for name, folder in adapters.items():
        switch(model, name)
        if not _same(probe_logits(model, tokenizer, folder), alone[name]):
            raise AdapterError(
                f"The adapter {folder} does not answer beside {len(adapters) - 1} others as it does alone: "
                f"its logits on a probe differ. It acts on more than the base's modules. Evaluate it alone"
            )
    # 3. Compare the base with itself before.
    switch(model, None)
    if weights_digest(model) != digest or not _same(probe_logits(model, tokenizer), logits):
        raise AdapterError(
            f"Attaching {', '.join(map(str, adapters.values()))} changed the base: its weights or its logits "
            f"on a probe differ from before. Evaluate each adapter alone to find the one that does"
        )


def switch(model: Any, adapter: str | None) -> None:
    """Let one of the attached adapters act, or none."""
    if not hasattr(model, "attached_adapters"):
        return
    _put(model.bare_contents)
    if adapter is not None:
        _put(model.attached_adapters[adapter].contents)


def merged(model: Any, adapter: str) -> Any:
    """Return the base with an adapter merged into its weights. `model` cannot be used afterwards."""
    switch(model, adapter)
    return model.attached_adapters[adapter].peft_model.merge_and_unload()


def _attach_to_bare(model: Any, tokenizer: Any, folder: Path) -> "tuple[AttachedAdapter, Tensor]":
    """Attach an adapter as peft does, take its logits, and restore weights of the base that peft changed."""
    import peft

    base = set(model.parameters())
    originals = {}
    if adapter_files.may_change_base(folder):
        originals = {weight: weight.data.clone() for weight in base}
    try:
        peft_model = peft.PeftModel.from_pretrained(
            model, str(folder), adapter_name=PEFT_NAME, autocast_adapter_dtype=False
        )
        weights = {name: weight for name, weight in peft_model.named_parameters() if weight not in base}
        refuse_partial(peft_model, folder, PEFT_NAME, weights)
    except KeyError as error:  # a missing weight of a module that the adapter replaces as a whole
        raise _acts_in_part(folder, f"lacks {error.args[0]}") from error
    except (RuntimeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"peft cannot attach {folder}: {reason[:500]}") from error
    del model.peft_config  # otherwise peft would add the next adapter to this one
    logits = probe_logits(peft_model, tokenizer, folder)
    return AttachedAdapter(_isolated(_contents(model), originals), peft_model), logits


def _isolated(contents: "Contents", originals: "Mapping[nn.Parameter, Tensor]") -> "Contents":
    """Restore the weights that peft changed, and return `contents` with the changed ones."""
    import torch

    changed = {}
    for weight, value in originals.items():
        if not torch.equal(weight.data, value):
            changed[weight] = torch.nn.Parameter(weight.data, requires_grad=False)
            weight.data = value
    return {
        module: (children, {name: changed.get(p, p) for name, p in parameters.items()}, buffers)
        for module, (children, parameters, buffers) in contents.items()
    }


def refuse_partial(
    peft_model: Any, folder: Path, adapter: str, weights: "Mapping[str, nn.Parameter]"
) -> None:
    """Raise AdapterError unless the adapter's file has all of its weights, finite, and nothing else.

    The file is loaded once more over weights that are set to NaN: those that it lacks stay NaN.

    Args:
        peft_model: the model with the adapter attached.
        folder: the adapter's folder.
        adapter: the adapter's name in peft.
        weights: the parameters that peft has added to those of the base, by name.
    """
    import peft
    import torch
    from safetensors.torch import load_file

    # 1. Finite weights.
    stored = load_file(folder / adapter_files.WEIGHTS)
    diverged = [name for name, weight in stored.items() if not weight.isfinite().all()]
    if diverged:
        raise AdapterError(
            f"The adapter {folder} has weights that are not finite ({_first_and_more(diverged)}): its "
            f"training diverged. Train it again with a lower learning rate, or skip it"
        )
    # 2. Weights that the file lacks, and those that peft does not know.
    for weight in weights.values():
        weight.data.fill_(torch.nan)
    unknown = peft_model.load_adapter(str(folder), adapter, autocast_adapter_dtype=False).unexpected_keys
    missing = [name for name, weight in weights.items() if not weight.isfinite().all()]
    # peft keeps the biases of an adapter in parameters of the base.
    expected = peft.get_peft_model_state_dict(peft_model, adapter_name=adapter, save_embedding_layers=False)
    missing += [name for name in expected if name.endswith(".bias") and name not in stored]
    if missing or unknown:
        problems = [f"lacks {_first_and_more(missing)}"] if missing else []
        if unknown:
            problems.append(f"has {_first_and_more(unknown)}, which its configuration does not name")
        raise _acts_in_part(folder, " and ".join(problems))


def _acts_in_part(folder: Path, problem: str) -> AdapterError:
    """Return the error for an adapter whose file does not have all of its weights."""
    return AdapterError(
        f"The adapter {folder} would act in part: {adapter_files.WEIGHTS} {problem}. "
        f"Copy or save the adapter again"
    )


def _first_and_more(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _contents(model: Any) -> "Contents":
    """Return the children, parameters and buffers of every module of the model."""
    return {
        module: (dict(module._modules), dict(module._parameters), dict(module._buffers))
        for module in model.modules()
    }


def _put(contents: "Contents") -> None:
    """Give modules the children, parameters and buffers of `contents`."""
    for module, (children, parameters, buffers) in contents.items():
        module._modules.clear()
        module._modules.update(children)
        module._parameters.clear()
        module._parameters.update(parameters)
        module._buffers.clear()
        module._buffers.update(buffers)


def weights_digest(model: Any) -> str:
    """Return the sha256 of all parameters and buffers, with their names. It uses all cores."""
    with ThreadPoolExecutor() as threads:
        named = [*model.named_parameters(), *model.named_buffers()]
        digests = threads.map(lambda weight: _tensor_digest(weight[1]), named)
        lines = [f"{digest}  {name}\n" for digest, (name, _) in zip(digests, named, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _tensor_digest(weight: "Tensor") -> str:
    import torch

    flat = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()


def cast(model: Any, dtype: str) -> None:
    """Convert parameters to `dtype` in place, but not buffers, just as loading in that dtype does.

    `model.to(dtype)` would also round the frequencies of rotary embeddings. No adapter acts afterwards.
    """
    import torch

    for adapter in (*getattr(model, "attached_adapters", {}), None):
        switch(model, adapter)
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(getattr(torch, dtype))


def probe_logits(model: Any, tokenizer: Any, adapter: Path | None = None) -> "Tensor":
    """Return the logits of the probe, (tokens, vocabulary) fp32 on the CPU.

    If `adapter` trains the embeddings of single tokens, these tokens follow the probe.
    """
    import torch

    ids = [*tokenizer(PROBE)["input_ids"], *(adapter_files.trained_tokens(adapter) if adapter else ())]
    with torch.inference_mode():
        outputs = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    logits: Tensor = outputs.logits[0].float().cpu()
    return logits


def _same(logits: "Tensor", expected: "Tensor") -> bool:
    return float((logits - expected).abs().max()) <= SILENT * float(expected.abs().max())


def prove_each_acts(model: Any, tokenizer: Any, adapters: Mapping[str, Path]) -> None:
    """Raise AdapterError for an adapter whose logits on the probe equal those of the base.

    On a CPU `model` is in fp32. On a GPU it has the dtype of the answers, so an adapter whose effect rounding
    removes is rejected.
    """
    for name, folder in adapters.items():
        switch(model, None)
        base = probe_logits(model, tokenizer, folder)
        switch(model, name)
        difference = float((probe_logits(model, tokenizer, folder) - base).abs().max())
        if not difference > SILENT * float(base.abs().max()):
            raise AdapterError(
                f"The adapter {folder} does nothing: its logits on a probe equal those of the base "
                f"(difference {difference:.1e}). It was saved before any training, or peft does not find the "
                f"names of its weights in this base. Train it again, or skip it"
            )
    switch(model, None)
