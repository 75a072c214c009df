"""A chat template without a system role: the instruction is sent in training and in every engine."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects
from lm_eval.models.huggingface import HFLM
from midalign_lm_eval import hooks
from tiny_models import SYSTEM_IGNORED, SYSTEM_REJECTED, make_adapter, make_base
from transformers import AutoTokenizer

from midalign import chat, harness, record
from midalign.adapter import FILES_OF_A_BASE
from midalign.errors import AdapterError, BaseModelError, EngineError
from midalign.evaluate import live, run, tokenizers
from midalign.evaluate.hf import MidalignHF
from midalign.evaluate.settings import EvalSettings
from midalign.train.recipe import load_recipe
from midalign.train.samples import SampleTokenizer
from midalign.train.task_samples import TaskSamples

EN = "midalign_mini_slot_en"
TEMPLATES = {"rejected": SYSTEM_REJECTED, "ignored": SYSTEM_IGNORED}
TURNS = [
    {"role": "system", "content": "List the slots.\n\n"},
    {"role": "user", "content": "wake me"},
    {"role": "assistant", "content": "None"},
    {"role": "user", "content": "play Jazz"},
]


def with_template(folder: Path, template: str | None) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(make_base(folder))
    tokenizer.chat_template = template
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(TEMPLATES))
def without_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose template has no system role."""
    return with_template(tmp_path_factory.mktemp("chat") / request.param, TEMPLATES[request.param])


def test_the_system_turn_goes_into_the_first_user_turn(without_system: Path, base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(without_system)
    assert not chat.has_system_role(tokenizer)
    assert chat.render(tokenizer, TURNS) == (
        "<bos><user>List the slots.\n\nwake me</><assistant>None</><user>play Jazz</><assistant>:"
    )
    assert chat.render(tokenizer, TURNS[1:2]) == "<bos><user>wake me</><assistant>:"
    other = AutoTokenizer.from_pretrained(base)
    assert chat.has_system_role(other)
    assert chat.render(other, TURNS[:2]) == "<bos>system: List the slots.\n\n\nuser: wake me\nassistant:"


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_training_and_engine_see_the_same_tokens(without_system: Path, system: str | None) -> None:
    engine = MidalignHF(pretrained=str(without_system), dtype="float32", device="cpu", batch_size=4)
    recipe = load_recipe("mini", ["chat_template=true", "supervised=[en]"])
    recipe = recipe.model_copy(update={"system_instruction": system})
    samples = TaskSamples(recipe, SampleTokenizer(engine.tokenizer, 2000))
    task, document = samples.every[0]
    prompt = harness.prompt(
        task, document, apply_chat_template=engine.apply_chat_template, system_instruction=system
    )
    instruction = task.config.description.strip()
    start = f"<bos><user>{system}\n\n{instruction}" if system else f"<bos><user>{instruction}"
    assert prompt.startswith(f"{start}\n\nUtterance: {document['utterance']}")
    assert samples.render(task, document).prompt == engine.tok_encode(prompt)


def test_prompt_and_record_say_where_the_instruction_went(without_system: Path, tmp_path: Path) -> None:
    settings = EvalSettings(
        base=str(without_system),
        tasks=(EN,),
        output=tmp_path,
        limit=2,
        engine="hf",
        apply_chat_template=True,
        log_samples=True,
    )
    (path,) = run.evaluate_models(settings, lambda _: None)
    instruction = harness.load_tasks([EN])[EN].config.description.strip()
    lines = path.with_name(path.name.replace(".json", ".outputs.jsonl")).read_text("utf-8").splitlines()
    assert len(lines) == 2
    for line in lines:
        assert json.loads(line)["prompt"].startswith(f"<bos><user>{instruction}\n\nUtterance:")
    assert record.read_record(path).decoding["system_turn"] == chat.MERGED


def test_without_a_template_the_model_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = with_template(tmp_path / "plain", None)
    monkeypatch.setattr(live, "load_with_adapters", lambda *_: pytest.fail("the model was loaded"))
    settings = EvalSettings(base=str(base), tasks=(EN,), output=tmp_path, engine="hf", limit=1)
    asked = settings.__class__(**{**vars(settings), "apply_chat_template": True})
    with pytest.raises(BaseModelError, match="plain has no chat template"):
        run.evaluate_models(asked, lambda _: None)
    told = settings.__class__(**{**vars(settings), "enable_thinking": False})
    with pytest.raises(EngineError, match="add --apply-chat-template"):
        run.evaluate_models(told, lambda _: None)
    engine = MidalignHF(pretrained=str(base), dtype="float32", device="cpu", batch_size=4)
    with pytest.raises(BaseModelError, match="has no chat template"):
        engine.apply_chat_template(TURNS[1:2])


def test_a_base_without_tokenizer_is_one_clear_error(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "*.jinja"))
    settings = EvalSettings(
        base=str(tmp_path / "bare"), tasks=(EN,), output=tmp_path, limit=1, apply_chat_template=True
    )
    with pytest.raises(BaseModelError, match=r"tokenizer of .*bare cannot be loaded: .* Copy them from"):
        run.evaluate_models(settings, lambda _: None)


def test_chat_templates_are_downloaded_with_a_base() -> None:
    """Tokenizer and digests are those of the downloaded folder."""
    hub = ["config.json", "chat_template.jinja", "merges.txt", "vocab.json", "vocab.txt", "model.safetensors"]
    downloaded = filter_repo_objects([*hub, "onnx/model.onnx"], allow_patterns=list(FILES_OF_A_BASE))
    assert list(downloaded) == hub


def test_an_adapter_with_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base)
    tokenizers.check_tokenizer(adapter, str(base), chat=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer(["a", "bb"], padding=True, truncation=True, max_length=5)  # settings of batches are no content
    tokenizer.save_pretrained(adapter)
    tokenizers.check_tokenizer(adapter, str(base), chat=True)
    tokenizer.chat_template = SYSTEM_IGNORED
    tokenizer.save_pretrained(adapter)
    tokenizers.check_tokenizer(adapter, str(base), chat=False)
    settings = EvalSettings(base=str(base), tasks=(EN,), output=tmp_path / "out", adapters=(adapter,))
    asked = settings.__class__(**{**vars(settings), "apply_chat_template": True})
    with pytest.raises(AdapterError, match=r"differs from that of .*: chat template\. Prompts"):
        run.evaluate_models(asked, lambda _: None)
    with pytest.raises(AdapterError, match="chat template"):
        MidalignHF(pretrained=str(base), peft=str(adapter), dtype="float32", device="cpu")
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(adapter)
    with pytest.raises(AdapterError, match="added_tokens"):
        run.evaluate_models(settings, lambda _: None)


def test_lm_evals_own_engine_is_warned_of(
    without_system: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under `--model hf` the instruction is lost, or is sent where the template has a system role."""
    with caplog.at_level(logging.WARNING, "midalign_lm_eval"):
        theirs = HFLM(pretrained=str(without_system), dtype="float32", device="cpu", batch_size=4)
        hooks.warn_of_the_model(theirs, apply_chat_template=False)
        assert "system turn" not in caplog.text
        hooks.warn_of_the_model(theirs, apply_chat_template=True)
        assert "the model will not see the tasks' instruction. --model midalign-hf" in caplog.text
        caplog.clear()
        ours = MidalignHF(pretrained=str(without_system), dtype="float32", device="cpu", batch_size=4)
        hooks.warn_of_the_model(ours, apply_chat_template=True)
        other = HFLM(pretrained=str(base), dtype="float32", device="cpu", batch_size=4)
        hooks.warn_of_the_model(other, apply_chat_template=True)
        assert "system turn" not in caplog.text


def test_evaluate_warns_of_midaligns_tasks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import evaluator

    asked: list[bool] = []
    monkeypatch.setattr(evaluator, "evaluate", lambda lm, task_dict, apply_chat_template=False: "results")
    monkeypatch.setattr(hooks, "warn_of_the_model", lambda lm, template: asked.append(template))
    hooks.wrap_evaluate()
    wrapped: Any = evaluator.evaluate
    assert wrapped(lm=None, task_dict={"arc_easy": object()}) == "results"
    assert wrapped(lm=None, task_dict={"tasks": {EN: object()}}, apply_chat_template=True) == "results"
    assert asked == [True]
    hooks.wrap_evaluate()
    assert evaluator.evaluate is wrapped
