"""The Hugging Face engine against lm-eval's own, and against the tokenizer."""

from pathlib import Path

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny_models import TEXT, make_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from midalign.errors import EngineError
from midalign.evaluate import live
from midalign.evaluate.hf import MidalignHF

PROMPTS = [text[:cut] for text in TEXT for cut in (20, 33, 47, 60)] * 3


def requests(until: list[str], prompts: list[str] = PROMPTS, length: int = 24) -> list[Instance]:
    settings = {"until": until, "max_gen_toks": length, "do_sample": False}
    return [
        Instance("generate_until", {}, (prompt, dict(settings)), i, metadata=("task", i, 1))
        for i, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("until", [["\n"], list("aeit"), ["e: "], []])
def test_outputs_are_those_of_lm_eval(base: Path, until: list[str]) -> None:
    # One batch of 48 rows, which shrinks as rows end.
    ours = MidalignHF(pretrained=str(base), dtype="float32", device="cpu", batch_size=64)
    theirs = HFLM(pretrained=str(base), dtype="float32", device="cpu", batch_size=7)
    assert ours.generate_until(requests(until), disable_tqdm=True) == theirs.generate_until(
        requests(until), disable_tqdm=True
    )


def test_finish_reason_and_tokens(base: Path) -> None:
    engine = MidalignHF(pretrained=str(base), dtype="float32", device="cpu", batch_size=64)
    engine.generate_until(requests(["\n"], length=24), disable_tqdm=True)
    full = {key: one for key, one in engine.generated.items() if one.finish == "length"}
    assert full
    assert all(one.output_tokens == 24 for one in full.values())
    stop = next(one.text for one in full.values())[3:5]
    engine.generate_until(requests([stop], length=24), disable_tqdm=True)
    stopped = [one for one in engine.generated.values() if one.finish == "stop"]
    assert stopped
    assert all(one.output_tokens <= 24 and stop not in one.text for one in stopped)
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert engine.generated["task", 0].prompt_tokens == len(tokenizer(PROMPTS[0])["input_ids"])


def test_prompts_without_room_are_cut_as_lm_eval_does_and_counted(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = (
        kind(pretrained=str(base), dtype="float32", device="cpu", batch_size=64, max_length=32)
        for kind in (MidalignHF, HFLM)
    )
    lengths = [len(ours.tok_encode(prompt)) for prompt in PROMPTS]
    assert min(lengths) < 12 < max(lengths)
    found = ours.generate_until(requests(["\n"], length=20), disable_tqdm=True)
    assert found == theirs.generate_until(requests(["\n"], length=20), disable_tqdm=True)
    assert [ours.generated["task", i].prompt_cut for i in range(len(PROMPTS))] == [n > 12 for n in lengths]
    assert max(one.prompt_tokens for one in ours.generated.values()) == 12
    cut = sum(n > 12 for n in lengths)
    assert f"task: {cut} of {len(PROMPTS)} prompts truncated on the left, to fit" in caplog.text
    with pytest.raises(EngineError, match="context of the base is 32 tokens, and an answer may have 64"):
        ours.generate_until(requests(["\n"], length=64), disable_tqdm=True)


def test_the_head_gets_no_slice(base: Path) -> None:
    """Its product takes minutes and gigabytes with Gemma's vocabulary: scripts/benchmarks/head_slice.py."""
    engine = MidalignHF(pretrained=str(base), dtype="float32", device="cpu", batch_size=64)
    contiguous: list[bool] = []
    head = engine.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: contiguous.append(args[0].is_contiguous()))
    engine.generate_until(requests(["\n"], length=2), disable_tqdm=True)
    assert len(contiguous) > 1
    assert all(contiguous)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_prompt_ids_are_lm_evals_with_one_bos(tmp_path: Path, bos: bool, chat: bool) -> None:
    folder = make_base(tmp_path / "base", bos=bos)
    engine = MidalignHF(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)
    prompts = list(PROMPTS)
    if chat:
        prompts = [engine.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in prompts]
    seen = []
    model = engine.model
    forward = model.forward

    def record(input_ids, attention_mask, **kwargs):
        if input_ids.shape[1] > 1:
            seen.extend(
                row[mask.bool()].tolist() for row, mask in zip(input_ids, attention_mask, strict=True)
            )
        return forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    model.forward = record
    engine.generate_until(requests(["\n"], prompts, length=2), disable_tqdm=True)
    expected, mask = engine.tok_batch_encode(prompts)  # what HFLM.generate_until encodes with
    wanted = sorted(row[m.bool()].tolist() for row, m in zip(expected, mask, strict=True))
    assert sorted(seen) == wanted
    assert {ids.count(1) for ids in seen} == {1 if bos or chat else 0}


def test_sampling_goes_to_lm_eval(base: Path) -> None:
    engine = MidalignHF(pretrained=str(base), dtype="float32", device="cpu", batch_size=4)
    settings = {"until": ["\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 5.0}
    one = [Instance("generate_until", {}, (PROMPTS[0], settings), 0, metadata=("task", 0, 1))]
    torch.manual_seed(0)
    first = engine.generate_until(one, disable_tqdm=True)
    torch.manual_seed(1)
    assert engine.generate_until(one, disable_tqdm=True) != first


def test_adapters_are_switched(base: Path, adapter: Path, other_adapter: Path) -> None:
    """Each name answers as peft does with that adapter alone."""
    import peft

    model, tokenizer = live.load_with_adapters(str(base), {"a": adapter, "b": other_adapter}, "float32")
    engine = MidalignHF(pretrained=model, tokenizer=tokenizer, batch_size=16)
    alone = {None: AutoModelForCausalLM.from_pretrained(base)}
    for name, folder in (("a", adapter), ("b", other_adapter)):
        alone[name] = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    answers = {}
    for name in ("a", None, "b", None, "a"):
        engine.use(name)
        answer = engine.generate_until(requests(["\n"]), disable_tqdm=True)
        reference = HFLM(pretrained=alone[name], tokenizer=tokenizer, batch_size=16)
        assert answer == reference.generate_until(requests(["\n"]), disable_tqdm=True)
        answers[name] = tuple(answer)
    assert len(set(answers.values())) == 3


def test_cast_is_loading_in_that_dtype(base: Path) -> None:
    """Buffers keep their precision: rotary frequencies in bf16 would be another model."""
    model, tokenizer = live.load_with_adapters(str(base), {}, "float32")
    live.cast(model, "bfloat16")
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    assert torch.equal(live.probe_logits(model, tokenizer), live.probe_logits(loaded, tokenizer))
    assert model.dtype == torch.bfloat16
