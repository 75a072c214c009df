"""vLLM with live adapters, as on a GPU: what it serves, how that is proved, and how it fails."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import peft
import pytest
import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file, save_file
from test_adapter_kinds import KINDS, lora
from test_vllm import PROMPTS, needs_vllm, requests
from tiny_models import make_adapter_of
from transformers import AutoConfig

from midalign.errors import AdapterError, EngineError
from midalign.evaluate import live, vllm_limits
from midalign.evaluate.vllm_proof import ProbeReference, allowed_difference, prove_vllm_serves, take_reference

pytestmark = [pytest.mark.slow, needs_vllm]


@pytest.fixture(scope="module")
def folders(adapter: Path, other_adapter: Path) -> dict[str, Path]:
    return {"a": adapter, "b": other_adapter}


@pytest.fixture(scope="module")
def engine(base: Path, folders: dict[str, Path]) -> Any:
    """The one engine of this file: bf16, as LoRA is on a GPU."""
    from midalign.evaluate.vllm import MidalignVLLM

    return MidalignVLLM(str(base), adapters=folders, dtype="bfloat16")


@pytest.fixture(scope="module")
def reference(base: Path, folders: dict[str, Path]) -> ProbeReference:
    model, tokenizer = live.load_with_adapters(str(base), folders, "bfloat16")
    return take_reference(model, tokenizer, folders)


@pytest.fixture
def more_requests(engine: Any) -> Iterator[dict[str, Any]]:
    """The engine's live adapters, of which a test may add some."""
    before = dict(engine.requests)
    yield engine.requests
    engine.requests.clear()
    engine.requests.update(before)
    engine.use(None)


def request_of(folder: Path, number: int) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(folder.name, number, str(folder))


def test_live_adapters_are_proved_in_vllm(
    engine: Any, reference: ProbeReference, folders: dict[str, Path]
) -> None:
    prove_vllm_serves(engine, reference, folders)
    for name in (None, *folders):
        engine.use(name)
        found = engine.probe_logprobs(reference.ids)
        assert found == pytest.approx(reference.logprobs[name], abs=0.2)
    # Re-derived from the logits of a plain forward pass.
    logits = reference.logits["a"].double()
    ids = reference.ids
    expected = [float(logits[i, ids[i + 1]] - torch.logsumexp(logits[i], 0)) for i in range(len(ids) - 1)]
    assert reference.logprobs["a"] == pytest.approx(expected, abs=1e-4)


def test_an_adapter_that_vllm_serves_as_the_base_is_found(
    engine: Any,
    reference: ProbeReference,
    folders: dict[str, Path],
    more_requests: dict[str, Any],
    tmp_path: Path,
) -> None:
    """vLLM loads weights of unknown blocks and serves the base, without an error."""
    misnamed, partial = tmp_path / "misnamed", tmp_path / "partial"
    for folder, renamed in ((misnamed, ""), (partial, "self_attn")):
        shutil.copytree(folders["a"], folder)
        weights = load_file(folder / "adapter_model.safetensors")
        save_file(
            {
                (name.replace("layers.", "layers.7") if renamed in name else name): weight
                for name, weight in weights.items()
            },
            folder / "adapter_model.safetensors",
        )
    expected = ProbeReference(
        reference.ids,
        {},
        {
            None: reference.logprobs[None],
            "misnamed": reference.logprobs["a"],
            "partial": reference.logprobs["a"],
        },
    )
    more_requests |= {"misnamed": request_of(misnamed, 8), "partial": request_of(partial, 9)}
    with pytest.raises(AdapterError, match=r"misnamed does nothing in vLLM.*--engine hf"):
        prove_vllm_serves(engine, expected, {"misnamed": misnamed})
    with pytest.raises(AdapterError, match=r"partial acts differently in vLLM.*--engine hf"):
        prove_vllm_serves(engine, expected, {"partial": partial})
    wrong_base = ProbeReference(reference.ids, {}, {None: [p - 1 for p in reference.logprobs[None]]})
    with pytest.raises(EngineError, match="disagree on the base"):
        prove_vllm_serves(engine, wrong_base, {})
