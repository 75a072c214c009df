"""Constrained decoding under the Hugging Face engine: random models can only say what the grammars allow."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import xgrammar
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from tiny_models import make_base

from midalign import bases
from midalign.data.registry import slot_data
from midalign.errors import EngineError, TaskError
from midalign.evaluate import constrain
from midalign.evaluate.hf import MidalignHF
from midalign.families import slot
from midalign.metrics.slot import COLUMNS, parse_slots

SCRIPTS = ("en", "hi", "ja", "ru", "tr", "zh")
SLOTS = ["city", "date", "time"]
CALL = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "name": {"type": "string", "enum": ["alarm_set", "joke_tell", "größe"]},
        "arguments": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {
                    "slot": {"type": "string", "enum": SLOTS},
                    "value": {"type": "string", "minLength": 1},
                },
                "required": ["slot", "value"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["name", "arguments"],
    "additionalProperties": False,
}
"""Of the form that structured tasks have."""

Constrain = Callable[[dict[str, Any] | str], None]


@pytest.fixture(scope="module", params=["byte level", "byte fallback", "mini"])
def engine(request: pytest.FixtureRequest, base: Path) -> MidalignHF:
    folder = str(base)
    if request.param == "byte fallback":
        folder = str(make_base(base.parent / "fallback", fallback=True))
    if request.param == "mini":
        folder = bases.resolve("mini")
    return MidalignHF(pretrained=folder, dtype="float32", device="cpu", batch_size=64, constrained=True)


@pytest.fixture
def constraint(monkeypatch: pytest.MonkeyPatch) -> Constrain:
    """Give every task one."""
    return lambda one: monkeypatch.setattr(constrain, "constraint_of", lambda task, doc: one)


def requests(docs: list[tuple[str, dict[str, Any]]], length: int, prompt: str = "Slots:") -> list[Instance]:
    settings = {"until": ["\n"], "max_gen_toks": length, "do_sample": False}
    return [
        Instance(
            "generate_until",
            doc,
            (f"Utterance: {doc['utterance']}\n{prompt}", dict(settings)),
            i,
            metadata=(f"midalign_mini_slot_{code}", i, 1),
        )
        for i, (code, doc) in enumerate(docs)
    ]


def mini_docs(each: int) -> list[tuple[str, dict[str, Any]]]:
    return [
        (code, slot.dataset(source="mini", language=code)["test"][i]) for code in SCRIPTS for i in range(each)
    ]


def test_every_slot_value_stands_in_its_utterance(engine: MidalignHF) -> None:
    """One batch of many grammars, whose rows end at different times."""
    docs = mini_docs(9)
    answers = engine.generate_until(requests(docs, 128), disable_tqdm=True)
    finishes = [engine.generated[f"midalign_mini_slot_{code}", i].finish for i, (code, _) in enumerate(docs)]
    assert finishes.count("stop") > len(docs) // 3
    assert len(set(answers)) > len(docs) // 2
    for (_, doc), answer, finish in zip(docs, answers, finishes, strict=True):
        if finish == "length":
            continue
        row = dict(zip(COLUMNS, slot.counts(doc, answer), strict=True))
        assert (row["well_formed"], row["values_outside"]) == (1, 0), (doc["utterance"], answer)
        for label, value in parse_slots(answer).pairs:
            assert label in slot_data("mini").labels("slot")
            assert value in doc["utterance"]


def test_free_decoding_of_the_same_models_says_other_things(engine: MidalignHF) -> None:
    """So it was the grammar that did it."""
    docs = mini_docs(3)
    engine.constrained = False
    try:
        answers = engine.generate_until(requests(docs, 64), disable_tqdm=True)
    finally:
        engine.constrained = True
    formed = [
        slot.counts(doc, answer)[COLUMNS.index("well_formed")]
        for (_, doc), answer in zip(docs, answers, strict=True)
    ]
    assert sum(formed) < len(docs) // 2


def test_every_json_parses_and_complies_or_was_cut_off(engine: MidalignHF, constraint: Constrain) -> None:
    constraint(CALL)
    docs = mini_docs(9)
    # Random models write strings without end: pushing the quotation mark up lets some come to theirs.
    vocabulary = xgrammar.TokenizerInfo.from_huggingface(engine.tokenizer).decoded_vocab
    quote = [i for i, text in enumerate(vocabulary) if text == b'"']
    head = engine.model.get_output_embeddings()
    handle = head.register_forward_hook(
        lambda _, __, logits: logits.index_add(
            -1,
            torch.tensor(quote),
            torch.rand((*logits.shape[:-1], len(quote)), generator=torch.manual_seed(0)) * 8,
        )
    )
    answers = engine.generate_until(requests(docs, 160, "JSON:"), disable_tqdm=True)
    handle.remove()
    validator = jsonschema.Draft202012Validator(CALL)
    whole = 0
    for i, ((code, _), answer) in enumerate(zip(docs, answers, strict=True)):
        one = engine.generated[f"midalign_mini_slot_{code}", i]
        if one.finish == "length":
            assert one.output_tokens == 160
            with pytest.raises(json.JSONDecodeError):
                json.loads(answer)
            continue
        whole += 1
        validator.validate(json.loads(answer))
    assert whole > len(docs) // 4


def test_special_tokens_are_never_said(engine: MidalignHF, constraint: Constrain) -> None:
    """Their names are text to a grammar, and decoding drops them."""
    constraint({"type": "string", "minLength": 1})
    ids = engine.compiler.markup
    assert ids
    assert not set(ids) & engine.end_ids
    handle = engine.model.get_output_embeddings().register_forward_hook(
        lambda _, __, logits: logits.index_fill(-1, torch.tensor(ids), 1e4)
    )
    (answer,) = engine.generate_until(requests(mini_docs(1)[:1], 12), disable_tqdm=True)
    handle.remove()
    said = engine.tok_encode(answer, add_special_tokens=False)
    assert len(said) > 1
    assert not set(said) & set(ids)


def test_a_model_may_end_with_a_stop_string_or_an_end_of_sequence(
    engine: MidalignHF, constraint: Constrain
) -> None:
    constraint('root ::= "None"')
    newline = engine.tok_encode("\n", add_special_tokens=False)[-1]
    end = next(iter(engine.end_ids))
    for wanted in (newline, end):
        handle = engine.model.get_output_embeddings().register_forward_hook(
            lambda _, __, logits, wanted=wanted: logits.index_fill(-1, torch.tensor([wanted]), 1e4)
        )
        engine.generate_until(requests(mini_docs(1)[:1], 12), disable_tqdm=True)
        handle.remove()
        (one,) = engine.generated.values()
        assert (one.text.strip(), one.finish) == ("None", "stop")


def accepts(text: str, answer: str) -> bool:
    info = xgrammar.TokenizerInfo(["</s>"], stop_token_ids=[0])
    compiled = xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar(text)
    matcher = xgrammar.GrammarMatcher(compiled, terminate_without_stop_token=True)
    return matcher.accept_string(answer.encode()) and matcher.is_completed()


def test_around_the_answer_is_what_free_decoding_strips(constraint: Constrain) -> None:
    constraint('root ::= "None"')
    text = constrain.output_grammar("midalign_mini_slot_en", {}, ["\n", "END"])
    for answer in ("None", " None", " None\n", "NoneEND", "None\n\n"):
        assert accepts(text, answer)
    for answer in ("  None", "\nNone", "None ", "None."):
        assert not accepts(text, answer)


def schema_grammar(schema: dict[str, Any]) -> str:
    return constrain._of_schema(json.dumps(schema))


@given(
    st.lists(
        st.tuples(st.sampled_from(SLOTS), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
        max_size=2,
    )
)
def test_what_json_dumps_writes_is_accepted(arguments: list[tuple[str, str]]) -> None:
    """Quotation marks, backslashes and control characters in values too."""
    call = {"name": "größe", "arguments": [{"slot": slot, "value": value} for slot, value in arguments]}
    assert accepts(schema_grammar(CALL), json.dumps(call, ensure_ascii=False))


@given(st.text('{}[]":, \t\n\\/ubd089aé\x00\x1f\x7f😀', max_size=12))
def test_what_is_accepted_as_a_string_is_json(text: str) -> None:
    for schema in ({"type": "string", "minLength": 1}, {"type": "string"}):
        answer = f'"{text}"'
        if accepts(schema_grammar(schema), answer):
            value = json.loads(answer)
            jsonschema.Draft202012Validator(schema).validate(value)
            assert not any(unicodedata.category(character) == "Cs" for character in value)
            assert "\n" not in answer  # a stop string


@pytest.mark.parametrize(
    "answer",
    ['"a\tb"', '""', '"\\ud83d"', '"\\ud83d\\ude00"', '"\\x"', '"a', "'a'", '"a"b"', '"a\nb"', ' "a"'],
)
def test_what_is_no_string_is_not_accepted(answer: str) -> None:
    assert not accepts(schema_grammar({"type": "string", "minLength": 1}), answer)


@pytest.mark.parametrize(
    "answer", ['{"name":"alarm_set", "arguments": []}', '{"name": "alarm_set", "arguments": [ ]}']
)
def test_blanks_are_those_of_json_dumps(answer: str) -> None:
    assert not accepts(schema_grammar(CALL), answer)


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "strin"},
        {"$ref": "#/nowhere"},
        {"type": "string", "description": 3},  # xgrammar would take it
        'root ::= "a',
        "no rules",
    ],
)
def test_a_constraint_that_does_not_compile_names_its_task(
    constraint: Constrain, wrong: dict[str, Any] | str
) -> None:
    constraint(wrong)
    with pytest.raises(TaskError, match=r"of midalign_mini_slot_en does not compile: .*--constrained"):
        constrain.output_grammar("midalign_mini_slot_en", {}, ["\n"])


def test_tasks_without_a_constraint_are_refused() -> None:
    with pytest.raises(TaskError, match="any text may be a translation"):
        constrain.output_grammar("midalign_mini_mt_en-de", {}, ["\n"])
    with pytest.raises(TaskError, match=r"gsm8k is not one of midalign's tasks"):
        constrain.output_grammar("gsm8k", {}, ["\n"])


def test_sampling_is_refused(engine: MidalignHF) -> None:
    settings = {"until": ["\n"], "max_gen_toks": 8, "do_sample": True, "temperature": 5.0}
    code, doc = mini_docs(1)[0]
    one = Instance("generate_until", doc, ("a", settings), 0, metadata=(f"midalign_mini_slot_{code}", 0, 1))
    with pytest.raises(EngineError, match="greedy"):
        engine.generate_until([one], disable_tqdm=True)


def test_a_vocabulary_that_cannot_write_an_answer_is_an_error() -> None:
    info = xgrammar.TokenizerInfo(["</s>", "a"], stop_token_ids=[0])
    compiled = xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar('root ::= "ab"')
    rows = constrain.Constraints([compiled], 2, [])
    rows.apply(torch.zeros(1, 2), [0])
    rows.accept(0, 1)
    logits = torch.zeros(1, 2)
    rows.apply(logits, [0])
    assert logits.isinf().all()
    with pytest.raises(EngineError, match="vocabulary"):
        rows.accept(0, 0)
