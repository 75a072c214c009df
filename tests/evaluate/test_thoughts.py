"""Reasoning models: thoughts are cut, and stop strings, limits and constraints begin after them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from tiny_models import ANSWER, BREAK, END, MORE, THOUGHT, make_thinker
from transformers import AutoTokenizer

from midalign import record
from midalign.data import mini
from midalign.errors import EngineError
from midalign.evaluate import run
from midalign.evaluate.external_outputs import score_outputs
from midalign.evaluate.hf import MidalignHF
from midalign.evaluate.requests import Generated
from midalign.evaluate.settings import EvalSettings
from midalign.families import slot

EN = "midalign_mini_slot_en"
PROMPT = "Utterance: wake me up\nSlots:"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_thinker(tmp_path_factory.mktemp("thinker") / "thinker")


def engine(folder: Path, **arguments: Any) -> MidalignHF:
    return MidalignHF(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4, **arguments)


def answer(lm: Any, prompt: str = PROMPT, length: int = 8, **settings: Any) -> Generated:
    doc = slot.dataset(source="mini", language="en")["test"][0]
    asked = {"until": ["\n"], "max_gen_toks": length, "do_sample": False, **settings}
    lm.generate_until([Instance("generate_until", doc, (prompt, asked), 0, metadata=(EN, 0, 1))])
    found: Generated = lm.generated[EN, 0]
    return found


def test_an_answer_is_what_follows_the_thoughts(thinker: Path) -> None:
    # Without the end of the thoughts, the stop string ends the answer within them.
    assert answer(engine(thinker)).text == "is it"
    number = AutoTokenizer.from_pretrained(thinker).convert_tokens_to_ids(END)
    for end in (END, number, str(number)):
        found = answer(engine(thinker, think_end_token=end))
        assert (found.text, found.finish, found.output_tokens) == (ANSWER, "stop", 5)


def test_thoughts_and_answers_have_limits_of_their_own(thinker: Path) -> None:
    lm = engine(thinker, think_end_token=END, max_thinking_tokens=2)
    found = answer(lm, length=2)  # the break and the answer
    assert (found.text, found.finish, found.output_tokens) == (ANSWER, "length", 4)
    found = answer(engine(thinker, think_end_token=END, max_thinking_tokens=1))
    assert (found.text, found.finish, found.output_tokens) == ("", "length", 1)
    with pytest.raises(EngineError, match=r"may have 8 after 5000 of thoughts.*max-thinking-tokens"):
        answer(engine(thinker, think_end_token=END, max_thinking_tokens=5000))


def test_a_prompt_that_ends_the_thoughts_is_answered_at_once(thinker: Path) -> None:
    found = answer(engine(thinker, think_end_token=END), prompt=f"{PROMPT}{END}{BREAK}")
    assert (found.text, found.finish, found.output_tokens) == (ANSWER, "stop", 2)


def test_a_model_that_does_not_think_has_answered(tmp_path: Path) -> None:
    folder = make_thinker(tmp_path / "at-once", (ANSWER, "<eos>"))
    found = answer(engine(folder, think_end_token=END))
    assert (found.text, found.finish, found.output_tokens) == (ANSWER, "stop", 2)
    found = answer(engine(folder, think_end_token=END, constrained=True))
    assert (found.text, found.finish) == (ANSWER, "stop")


def test_constraints_begin_after_the_thoughts(thinker: Path) -> None:
    found = answer(engine(thinker, think_end_token=END, constrained=True))
    assert (found.text, found.finish) == (ANSWER, "stop")
    assert found.output_tokens >= 4  # thoughts that no grammar allows, their end, the break, the answer


def test_sampling_is_refused(thinker: Path) -> None:
    with pytest.raises(EngineError, match="greedy decoding only"):
        answer(engine(thinker, think_end_token=END), do_sample=True, temperature=0.7)


def test_the_template_is_told_whether_to_think(thinker: Path) -> None:
    turns = [{"role": "user", "content": "wake me"}]
    with pytest.raises(EngineError, match="--think-end-token"):
        engine(thinker, enable_thinking=True)
    for enable, end in ((None, "<assistant>:"), (True, "<assistant>:"), (False, f"{END}{BREAK}")):
        lm = engine(thinker, think_end_token=END, enable_thinking=enable)
        assert lm.apply_chat_template(turns).endswith(end)


@pytest.mark.parametrize("enable", [None, False])
def test_the_record_says_how_the_model_thought(thinker: Path, tmp_path: Path, enable: bool | None) -> None:
    settings = EvalSettings(
        base=str(thinker),
        tasks=(EN,),
        output=tmp_path,
        limit=2,
        engine="hf",
        apply_chat_template=True,
        think_end_token=END,
        max_thinking_tokens=16,
        enable_thinking=enable,
        log_samples=True,
    )
    (path,) = run.evaluate_models(settings, lambda _: None)
    decoding = record.read_record(path).decoding
    assert (decoding["think_end_token"], decoding["max_thinking_tokens"]) == (END, 16)
    assert decoding.get("enable_thinking") is enable
    lines = (tmp_path / f"{path.stem}.outputs.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["output"] for line in lines] == [ANSWER] * 2


def test_outputs_from_elsewhere_are_scored_after_their_thoughts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    targets = [slot.target(item.slots) for item in mini.items("fr", "test")]
    lines = [
        json.dumps({"doc_id": i, "output": f"<think>{THOUGHT}</think>\n\n{target}{MORE}"})
        for i, target in enumerate(targets)
    ]
    file = tmp_path / "api.jsonl"
    file.write_text("\n".join(lines), "utf-8")
    task = "midalign_mini_slot_fr"
    entry, _ = score_outputs(task, file, "test", tmp_path / "thinking", think_end_token=END)
    assert entry.tasks[task].metrics["exact_match"].value == 1.0
    assert entry.decoding == {"think_end_token": END}
    with caplog.at_level(logging.WARNING):
        entry, _ = score_outputs(task, file, "test", tmp_path / "whole")
    assert entry.tasks[task].metrics["exact_match"].value < 0.5
    assert "300 of 300 outputs contain </think>" in caplog.text


def test_empty_ends_and_budgets_are_refused(thinker: Path, tmp_path: Path) -> None:
    for end in ("", " "):
        with pytest.raises(EngineError, match="expected text: --think-end-token"):
            engine(thinker, think_end_token=end)
        with pytest.raises(EngineError, match="expected text: --think-end-token"):
            score_outputs(EN, tmp_path / "api.jsonl", "test", tmp_path, think_end_token=end)
    with pytest.raises(EngineError, match="Found 0 tokens for thoughts, expected at least 1"):
        engine(thinker, think_end_token=END, max_thinking_tokens=0)
