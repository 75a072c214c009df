"""vLLM with live adapters, as on a GPU: what it serves, how that is proved, and how it fails."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_adapter_kinds import KINDS, lora
from test_vllm import needs_vllm, requests
from tiny_models import make_adapter_of
from transformers import AutoConfig

from midalign.errors import AdapterError, EngineError
from midalign.evaluate import live, vllm_limits
from midalign.evaluate.vllm_proof import ProbeReference, prove_vllm_serves, take_reference

pytestmark = [pytest.mark.slow, needs_vllm]


@pytest.fixture(scope="module")
def folders(adapter: Path, other_adapter: Path) -> dict[str, Path]:
    return {"a": adapter, "b": other_adapter}


@pytest.fixture(scope="module")
def engine(base: Path, folders: dict[str, Path]) -> Any:
    """The one engine of this file: bf16, as LoRA is on a GPU."""
    from midalign.evaluate.vllm import MidalignVLLM

    return MidalignVLLM(str(base), adapters=folders, dtype="bfloat16", max_loras=2)


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


def answers(engine: Any, name: str | None) -> list[str]:
    engine.use(name)
    return list(engine.generate_until(requests()[:4], disable_tqdm=True))


def test_several_adapters_answer_in_one_batch(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models = ("a", "b")
    alone = {name: (answers(engine, name), engine.generated) for name in models}
    generate, calls, counted = engine.model.generate, [], []

    def spy(prompts: list[Any], *args: Any, **kwargs: Any) -> Any:
        loras = kwargs["lora_request"]
        calls.append([lora.lora_name for lora in loras] if isinstance(loras, list) else loras)
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(engine.model, "generate", spy)
    monkeypatch.setattr(engine, "on_output", counted.append)
    found = {}
    for name in models:
        engine.use(name, also=models)
        found[name] = (engine.generate_until(requests()[:4], disable_tqdm=True), engine.generated)
        assert sum(counted) == 4
        counted.clear()
    assert calls == [["a"] * 4 + ["b"] * 4]
    assert engine.model.llm_engine.vllm_config.lora_config.max_loras == 2
    assert found == alone
    assert len({tuple(texts) for texts, _ in found.values()}) == 2
    # Other requests, and models in use alone, are answered again.
    engine.use("a", also=models)
    engine.generate_until(requests()[:4], disable_tqdm=True)
    engine.use("b", also=models)
    assert engine.generate_until(requests()[:3], disable_tqdm=True) == alone["b"][0][:3]
    assert [len(names) for names in calls] == [8, 8, 6]
    engine.use("b")
    assert engine.kept == {}


def test_a_rejected_adapter_is_reported_and_the_engine_goes_on(
    engine: Any, base: Path, more_requests: dict[str, Any], tmp_path: Path
) -> None:
    """vLLM's own errors, which would end its process if a request met them."""
    before = {name: answers(engine, name) for name in (None, "a")}
    targets = ["q_proj", "v_proj"]
    rejected = {
        "dora": (lora(use_dora=True), "DoRA"),
        "rank": (lora(r=64), "rank 64 is greater than max_lora_rank 8"),
        "biased": (lora(bias="all"), "bias is not supported"),
        "norms": (lora(modules_to_save=["norm"]), "modules_to_save"),
    }
    for number, (name, (config, reason)) in enumerate(rejected.items(), start=20):
        folder = make_adapter_of(tmp_path / name, str(base), config(targets))
        more_requests[name] = request_of(folder, number)
        with pytest.raises(AdapterError, match=rf"(?s)vLLM rejects .*{name}.*{reason}.*--engine hf"):
            engine.use(name)
    assert {name: answers(engine, name) for name in (None, "a")} == before


def test_a_dead_engine_is_restarted_once(
    engine: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    from midalign.evaluate import vllm

    expected = answers(engine, "a")
    alive, started, counted = engine.model, [], []

    class Dying:
        """vLLM whose process dies after its first answer."""

        llm_engine = alive.llm_engine

        def generate(self, prompts: list[Any], *args: Any, use_tqdm: Any, **kwargs: Any) -> Any:
            use_tqdm(total=len(prompts)).update(1)
            raise EngineDeadError

    def start(**settings: Any) -> Any:
        started.append(settings["max_lora_rank"])
        return Dying() if len(started) == 2 else alive

    monkeypatch.setattr(vllm, "LLM", start)
    monkeypatch.setattr(type(alive.llm_engine.engine_core), "shutdown", lambda self, *_: None)
    monkeypatch.setattr(engine, "on_output", counted.append)
    monkeypatch.setattr(engine, "model", Dying())
    engine.engine_log.path.write_text("ERROR torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\n")
    try:
        assert engine.generate_until(requests()[:4], disable_tqdm=True) == expected
        assert started == [8]
        assert sum(counted) == 4  # the answer that was repeated counts once
        assert "CUDA out of memory. Tried 2 GiB). Starting it again, once" in caplog.text
        engine.model = Dying()
        with pytest.raises(EngineError, match=r"vLLM ended while it answered: torch.OutOfMemoryError"):
            engine.generate_until(requests()[:4], disable_tqdm=True)
        assert started == [8]
    finally:
        engine.model, engine.has_restarted, engine.engine_log.is_kept = alive, False, False


def test_a_waiting_call_learns_that_its_process_was_killed() -> None:
    """A process that is killed sends no message, and vLLM 0.32 then waits forever."""
    from concurrent.futures import Future
    from queue import Queue
    from types import SimpleNamespace

    from midalign.evaluate.vllm_start import prepare_vllm, watch_processes

    prepare_vllm()
    from vllm.v1.engine.exceptions import EngineDeadError

    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    call: Future[None] = Future()
    manager = SimpleNamespace(sentinels=lambda: [os.pidfd_open(process.pid)])
    engine_core = SimpleNamespace(
        resources=SimpleNamespace(engine_manager=manager), outputs_queue=Queue(), utility_results={1: call}
    )
    watch_processes(engine_core)
    assert engine_core.outputs_queue.empty()
    process.kill()
    assert isinstance(engine_core.outputs_queue.get(timeout=60), EngineDeadError)
    assert isinstance(call.exception(timeout=60), EngineDeadError)
    process.wait()


def test_calls_are_of_even_size_and_progress_moves_within(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call compiles the grammars of its items, so few are in memory."""
    from midalign.evaluate import vllm

    assert 1000 <= vllm.AT_ONCE <= 2000
    monkeypatch.setattr(vllm, "AT_ONCE", 6)
    generate, calls, counted = engine.model.generate, [], []

    def spy(prompts: list[Any], *args: Any, **kwargs: Any) -> Any:
        calls.append(len(prompts))
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(engine.model, "generate", spy)
    monkeypatch.setattr(engine, "on_output", counted.append)
    found = engine.generate_until(requests()[:14], disable_tqdm=True)
    assert calls == [4, 5, 5]
    assert (sum(counted), len(found), set(counted)) == (14, 14, {1})
    assert len(engine.generated) == 14


def test_a_bar_of_no_elapsed_time_does_no_harm(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own bar divides by its elapsed time, which is zero for a bar that is switched off."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.entrypoints.common import offline

    class Off(offline.tqdm):  # what tqdm is with TQDM_DISABLE=1
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    monkeypatch.setattr(offline, "tqdm", Off)
    prompt = TokensPrompt(prompt_token_ids=[1, 40, 41])
    with pytest.raises(ZeroDivisionError):
        engine.model.generate([prompt], SamplingParams(max_tokens=1))
    monkeypatch.setattr(engine, "batch_size", "auto")  # lm-eval then asks for vLLM's bar
    sampled = requests()[:2]
    for request in sampled:
        request.args[1].update(do_sample=True, temperature=0.5)
    assert len(engine.generate_until(sampled)) == 2
    assert len(engine.generate_until(requests()[:2])) == 2


def test_limits_are_those_of_vllm(base: Path, tmp_path: Path) -> None:
    from vllm.config.lora import LoRAConfig, MaxLoRARanks
    from vllm.lora.layers.logits_processor import LogitsProcessorWithLoRA
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.v1.worker.gpu.sample import logit_bias

    assert get_args(MaxLoRARanks) == vllm_limits.RANKS
    assert logit_bias.MAX_NUM_LOGIT_BIAS_TOKENS == vllm_limits.MOST_BIASES
    head = LogitsProcessorWithLoRA.__new__(LogitsProcessorWithLoRA)
    torch.nn.Module.__init__(head)
    head.base_layer = torch.nn.Module()
    head.base_layer.vocab_size = vllm_limits.LARGEST_VOCABULARY + 1
    with pytest.raises(ValueError, match="vocab size must be <= 258048"):
        head.create_lora_weights(1, LoRAConfig(), None)
    # Of all kinds of adapters, vLLM serves none that it calls illegal. It ignores weights of single tokens,
    # and some versions ignore patterns.
    legal, served = set(), set()
    for kind, config in KINDS.items():
        folder = make_adapter_of(tmp_path / kind, str(base), config(["q_proj", "down_proj"]))
        settings = json.loads((folder / "adapter_config.json").read_text())
        if vllm_limits.beyond_plain_lora(folder) is None:
            served.add(kind)
        if settings["peft_type"] != "LORA":  # vLLM reads it as LoRA
            continue
        try:
            PEFTHelper.from_dict(settings).validate_legal(LoRAConfig(max_lora_rank=512))
            legal.add(kind)
        except ValueError:
            continue
    assert legal - served == {"patterns", "tokens"}
    assert served <= legal


def test_ranks_and_modules_are_checked_against_the_base(base: Path, tmp_path: Path) -> None:
    """By the classes of vLLM, which say where it takes LoRA."""
    llama = AutoConfig.from_pretrained(base)
    folder = make_adapter_of(tmp_path / "r300", str(base), lora(r=300)(["q_proj"]))
    assert vllm_limits.max_lora_rank([folder]) == 320
    large = make_adapter_of(tmp_path / "r1024", str(base), lora(r=1024)(["q_proj"]))
    with pytest.raises(AdapterError, match="r1024 has rank 1024, and vLLM serves LoRA up to rank 512"):
        vllm_limits.check_adapters([folder, large], llama, "bfloat16", "cuda")
    vllm_limits.check_adapters([folder], llama, "bfloat16", "cuda")
    # Llama's embeddings take LoRA, those of Gemma 3 do not, and GPT-2 takes none.
    embeddings = make_adapter_of(tmp_path / "embeddings", str(base), lora()(["embed_tokens"]))
    vllm_limits.check_adapters([embeddings], llama, "bfloat16", "cuda")
    head = make_adapter_of(tmp_path / "head", str(base), lora()(["q_proj", "lm_head"]))
    with pytest.raises(AdapterError, match="head changes lm_head"):
        vllm_limits.check_adapters([head], llama, "bfloat16", "cuda")
    gemma = AutoConfig.for_model("gemma3_text", architectures=["Gemma3ForCausalLM"], vocab_size=262_144)
    vllm_limits.check_adapters([folder], gemma, "bfloat16", "cuda")
    with pytest.raises(AdapterError, match="embeddings changes embed_tokens"):
        vllm_limits.check_adapters([embeddings], gemma, "bfloat16", "cuda")
    llama.vocab_size = 262_144
    with pytest.raises(EngineError, match="up to 258,048 tokens, and the base has 262,144"):
        vllm_limits.check_adapters([folder], llama, "bfloat16", "cuda")
    gpt2 = AutoConfig.for_model("gpt2", architectures=["GPT2LMHeadModel"])
    with pytest.raises(EngineError, match="no LoRA for GPT2LMHeadModel"):
        vllm_limits.check_adapters([folder], gpt2, "bfloat16", "cuda")
    vllm_limits.check_biases(range(1024))
    with pytest.raises(EngineError, match="1025 special tokens"):
        vllm_limits.check_biases(range(1025))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"data_parallel_size": 2}, "data_parallel_size=2 is not available"),
        ({"dtype": "float32", "lora": True}, "not in float32"),
        ({"max_lora_rank": 8, "dora": True}, "use_dora"),
    ],
)
def test_what_vllm_would_die_of_is_refused_before_it_starts(
    base: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    reason: str,
) -> None:
    """In lm-eval, where the adapter is lora_local_path."""
    from midalign.evaluate import vllm

    monkeypatch.setattr(vllm, "device", lambda: "cuda")
    monkeypatch.setattr(vllm, "start_vllm", lambda *_: pytest.fail("started"))
    if settings.pop("lora", False):
        settings["lora_local_path"] = str(adapter)
    if settings.pop("dora", False):
        folder = make_adapter_of(tmp_path / "dora", str(base), lora(use_dora=True)(["q_proj"]))
        settings["lora_local_path"] = str(folder)
    with pytest.raises((AdapterError, EngineError), match=reason):
        vllm.MidalignVLLM(str(base), **settings)
