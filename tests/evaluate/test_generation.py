"""Generation settings of the base: ignored by our engines, recorded, and named where they act."""

import logging
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from midalign_lm_eval import hooks
from tiny_models import TEXT, make_base
from transformers import GenerationConfig

from midalign import record
from midalign.evaluate import generation, run
from midalign.evaluate.hf import MidalignHF
from midalign.evaluate.settings import EvalSettings

ACTING = {"no_repeat_ngram_size": 2, "repetition_penalty": 5.0}


@pytest.fixture(scope="module")
def penalised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base of the other tests, with settings that change greedy answers and others that do not."""
    folder = make_base(tmp_path_factory.mktemp("penalised") / "tiny")
    config = GenerationConfig(
        eos_token_id=[2, 5], pad_token_id=0, do_sample=True, temperature=0.6, top_p=0.9, **ACTING
    )
    config.save_pretrained(folder)
    return folder


def answers(lm: HFLM) -> list[str]:
    settings = {"until": [], "max_gen_toks": 24, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (text, dict(settings)), number, metadata=("task", number, 1))
        for number, text in enumerate(TEXT)
    ]
    return list(lm.generate_until(requests, disable_tqdm=True))


def test_our_engine_answers_as_if_they_were_not_there(
    penalised: Path, base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = {"dtype": "float32", "device": "cpu", "batch_size": 4}
    plain = MidalignHF(pretrained=str(base), **arguments)
    plain.end_ids = {2, 5}
    expected = answers(plain)
    assert answers(HFLM(pretrained=str(penalised), **arguments)) != expected
    with caplog.at_level(logging.WARNING):
        ours = MidalignHF(pretrained=str(penalised), **arguments)
    assert answers(ours) == expected
    assert ours.ignored == ACTING
    assert "no_repeat_ngram_size=2, repetition_penalty=5.0, which midalign ignores" in caplog.text
    # Sampling goes to lm-eval's loop, which asks transformers.
    assert ours.model.generation_config.repetition_penalty in (None, 1.0)
    assert ours.model.generation_config.eos_token_id == [2, 5]


def test_other_models_are_warned_of(penalised: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = HFLM(pretrained=str(penalised), dtype="float32", device="cpu", batch_size=4)
    with caplog.at_level(logging.WARNING, "midalign_lm_eval"):
        hooks.warn_of_the_model(theirs, apply_chat_template=False)
    assert "generation_config sets no_repeat_ngram_size=2, repetition_penalty=5.0, which" in caplog.text


def test_the_record_names_them(penalised: Path, base: Path, tmp_path: Path) -> None:
    found = {}
    for folder in (penalised, base):
        settings = EvalSettings(
            base=str(folder),
            tasks=("midalign_mini_slot_en",),
            output=tmp_path / folder.parent.name,
            limit=1,
            engine="hf",
        )
        (path,) = run.evaluate_models(settings, lambda _: None)
        found[folder] = record.read_record(path).decoding.get("generation_config_ignored")
    assert found == {penalised: ACTING, base: None}


def test_a_base_without_generation_config_has_that_of_its_configuration(base: Path, tmp_path: Path) -> None:
    for name in ("config.json",):
        (tmp_path / name).write_bytes((base / name).read_bytes())
    config = generation.base_generation_config(str(tmp_path))
    assert config.eos_token_id == 2
    assert generation.acting_settings(config) == {}
