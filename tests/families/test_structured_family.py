"""JSON-structured generation through lm-eval's own task objects: prompt, gold target, outputs, schemas."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from midalign import bases, harness
from midalign.data import massive, mini, uner
from midalign.errors import DataError, TaskError
from midalign.families import structured
from midalign.families.aggregation import ItemScore
from midalign.families.shots import SHOTS
from midalign.languages import languages
from midalign.metrics import bootstrap
from midalign.metrics.structured import COLUMNS, METRICS, parse_json

GARBAGE = ("", "\n", "🤷 ￿ \x00", "None", "[" * 100_000, "x" * 1_000_000, '{"entities": [{"type": "PER"')


def aggregated(task: Any, docs: list[dict[str, Any]], outputs: list[str]) -> dict[str, float]:
    """What lm-eval computes from documents and their outputs."""
    results = [task.process_results(doc, [output]) for doc, output in zip(docs, outputs, strict=True)]
    functions = task.aggregation()
    return {name: functions[name]([result[name] for result in results]) for name in results[0]}


def check(name: str, task: Any) -> None:
    """Gold scores 1 and garbage 0 under every metric; nothing cuts a gold target. Of large sets every fifth
    item: of 26 items, resampled, all may be without entities, and then there is no F1."""
    docs = list(task.test_docs())
    docs = docs[:: 5 if len(docs) > 500 else 1]
    gold = [task.doc_to_target(doc) for doc in docs]
    for metric, value in aggregated(task, docs, gold).items():
        assert value == (0 if metric.endswith("_stderr") else 1), (name, metric)
    some = docs[:5]
    for output in GARBAGE:
        values = aggregated(task, some, [output] * len(some)).values()
        # No value is predicted, so there is no share of predicted values.
        assert {value for value in values if not np.isnan(value)} == {0}, (name, output[:20])
    stops = task.config.generation_kwargs["until"]
    assert not any(stop in target for stop in stops for target in gold), name
    validator = jsonschema.Draft202012Validator(structured.answer_schema(harness.metadata(name)))
    assert all(validator.is_valid(json.loads(target)) for target in gold), name
    own = structured.metrics(harness.metadata(name))
    assert [one["metric"] for one in task.config.metric_list] == [
        f"{metric}{suffix}" for metric in own for suffix in ("", "_stderr")
    ]


@pytest.fixture(scope="module")
def mini_tasks() -> dict[str, Any]:
    return harness.load_tasks(["midalign_mini_json"])


def test_gold_is_right_and_garbage_is_not_in_the_mini_benchmark(mini_tasks: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    assert len(mini_tasks) == 10
    for name, task in mini_tasks.items():
        check(name, task)
        targets = [task.doc_to_target(doc) for doc in task.test_docs()]
        longest = max(map(len, tokenizer(targets)["input_ids"]))
        assert 1.5 * longest < task.config.generation_kwargs["max_gen_toks"], name


@pytest.fixture
def real(store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with UNER and MASSIVE."""
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(uner, massive))


@pytest.mark.exhaustive
@pytest.mark.data
@pytest.mark.slow
def test_gold_is_right_and_garbage_is_not_in_all_of_uner_and_massive(real: None) -> None:
    names = harness.expand(["midalign_json"])
    assert len(names) == 17 + 52
    tasks = harness.load_tasks(names)
    for name, task in tasks.items():
        check(name, task)


@pytest.mark.data
@pytest.mark.slow
def test_the_closed_sets_are_massives(real: None) -> None:
    items = [
        item
        for code, row in languages().items()
        if row.codes["massive"]
        for split in massive.SPLITS
        for item in massive.items(code, split)
    ]
    assert sorted({item.intent for item in items}) == massive.labels("intent")
    assert sorted({slot for item in items for slot, _ in item.slots}) == massive.labels("slot")


@pytest.mark.data
def test_treebanks_without_a_split_say_so_and_take_shots_from_where_there_are_some(real: None) -> None:
    names = ["midalign_json_uner_zh_pud", "midalign_json_uner_de_pud", "midalign_json_uner_zh_gsd"]
    chinese, german, trained = harness.load_tasks(names).values()
    assert not german.has_training_docs()
    assert not german.has_validation_docs()
    assert trained.has_training_docs()
    gsd = {one.text for one in uner.sentences("zh_gsd", "train")}
    ewt = {one.text for one in uner.sentences("en_ewt", "validation")}
    assert {doc["text"] for doc in chinese.dataset["shots"]} <= gsd
    assert {doc["text"] for doc in german.dataset["shots"]} <= ewt
    assert len(german.dataset["shots"]) == len(chinese.dataset["shots"]) == SHOTS
    assert set(trained.dataset["shots"]["id"]) < set(trained.dataset["train"]["id"])
    with pytest.raises(TaskError, match="de_pud has no split 'validation'"):
        german.dataset["validation"]
    text = next(iter(german.test_docs()))
    assert harness.prompt(german, text).endswith(f"\n\nText: {text['text']}\nJSON:")
    assert list(text) == ["id", "dataset", "language", "text", "tokens", "spans", "target"]
    assert (text["language"], harness.metadata(names[1])["treebank"]) == ("de", "de_pud")
    assert structured.data_digest(harness.metadata(names[1]), "test") == uner.digest("de_pud", "test")


def test_prompts_read_as_intended(mini_tasks: dict[str, Any]) -> None:
    task = mini_tasks["midalign_mini_json_en"]
    instruction = (
        "Write the utterance as a function call in JSON, its arguments in order of appearance: "
        '{"name": intent, "arguments": [{"slot": slot, "value": words of the utterance}]}\n\n'
    )
    doc = next(iter(task.test_docs()))
    assert harness.prompt(task, doc) == f"{instruction}Utterance: {doc['utterance']}\nJSON:"
    assert task.config.target_delimiter + task.doc_to_target(doc) == f" {doc['target']}"

    def chat(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        turns = "".join(f"<{turn['role']}>{turn['content']}</>" for turn in messages)
        return turns + ("<assistant>" if add_generation_prompt else "")

    asked = f"<user>Utterance: {doc['utterance']}\nJSON:</>"
    assert (
        harness.prompt(task, doc, apply_chat_template=chat) == f"<system>{instruction}</>{asked}<assistant>"
    )
    shots = harness.prompt(task, doc, num_fewshot=2).split("\n\n")[1:-1]
    train = {item.utterance for item in mini.items("en", "train")}
    assert len(shots) == 2
    for shot in shots:
        utterance, answer = shot.removeprefix("Utterance: ").split("\nJSON: ")
        assert utterance in train
        assert parse_json(answer).parses


def test_a_document_holds_what_prompt_and_score_need(mini_tasks: dict[str, Any]) -> None:
    doc = next(iter(mini_tasks["midalign_mini_json_ja"].test_docs()))
    assert list(doc) == ["id", "dataset", "language", "intent", "utterance", "target"]
    item = mini.items("ja", "test")[0]
    assert json.loads(doc["target"]) == {
        "name": item.intent,
        "arguments": [{"slot": slot, "value": value} for slot, value in item.slots],
    }
    targets = "".join(doc["target"] for doc in mini_tasks["midalign_mini_json_ja"].test_docs())
    assert "\\u" not in targets
    assert not targets.isascii()


def test_one_line_is_read(mini_tasks: dict[str, Any]) -> None:
    doc = next(iter(mini_tasks["midalign_mini_json_de"].test_docs()))
    right = structured.counts(doc, doc["target"])
    assert structured.counts(doc, f"\n{doc['target']}\n\nMore.") == right
    pretty = json.dumps(json.loads(doc["target"]), indent=1)
    assert structured.counts(doc, pretty)[COLUMNS.index("parses")] == 0
    assert structured.counts(doc, f"```json\n{doc['target']}\n```")[COLUMNS.index("parses")] == 0


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"arguments": []}, True),
        ({"arguments": [{"slot": "time", "value": "a"}] * 3}, True),  # a slot may stand there twice
        ({"name": "alarm_sett"}, False),
        ({"name": None}, False),
        ({"arguments": None}, False),
        ({"arguments": {"time": "nine"}}, False),
        ({"arguments": [{"slot": "tyme", "value": "nine"}]}, False),
        ({"arguments": [{"slot": "time", "value": ""}]}, False),
        ({"arguments": [{"slot": "time", "value": 9}]}, False),
        ({"arguments": [{"slot": "time"}]}, False),
        ({"arguments": [{"slot": "time", "value": "nine", "unit": "h"}]}, False),
        ({"thoughts": "it is early"}, False),
    ],
)
def test_the_schema_is_closed(change: dict[str, Any], valid: bool) -> None:
    schema = structured.answer_schema({"source": "mini", "language": "en"})
    answer = {"name": "alarm_set", "arguments": [{"slot": "time", "value": "nine"}], **change}
    assert jsonschema.Draft202012Validator(schema).is_valid(answer) == valid
    doc = {"dataset": "mini", "language": "en", "utterance": "nine", "target": json.dumps(answer)}
    row = dict(zip(COLUMNS, structured.counts(doc, json.dumps(answer)), strict=True)) if valid else {}
    assert not valid or row["complies"] == row["exact"] == 1


def test_the_schema_of_entities() -> None:
    validator = jsonschema.Draft202012Validator(
        structured.answer_schema({"source": "uner", "treebank": "de_pud"})
    )
    assert validator.is_valid({"entities": [{"type": "PER", "text": "Ada"}] * 2})
    assert not validator.is_valid({"entities": [{"type": "OTH", "text": "Ada"}]})
    assert not validator.is_valid([{"type": "PER", "text": "Ada"}])
    assert len(structured.answer_schema({"source": "massive"})["properties"]["name"]["enum"]) == 60


@pytest.mark.parametrize("content", ['{"type": "objekt"}', "{", "[1]", None])
def test_a_schema_that_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    (tmp_path / "structured").mkdir()
    path = tmp_path / "structured" / "mini.schema.json"
    if content is not None:
        path.write_text(content, "utf-8")
    monkeypatch.setattr(structured, "tasks_dir", lambda: tmp_path)
    structured._schema.cache_clear()
    try:
        with pytest.raises(DataError, match=r"mini\.schema\.json is not a JSON Schema.*generate_tasks"):
            structured.answer_schema({"source": "mini"})
    finally:
        structured._schema.cache_clear()


def test_metrics_are_those_of_the_source_and_their_errors_come_after_them() -> None:
    assert set(METRICS) - set(structured.metrics({"source": "uner"})) == {"intent_accuracy"}
    assert set(METRICS) - set(structured.metrics({"source": "mini"})) == {"span_f1_seqeval"}
    doc = {
        "dataset": "mini",
        "language": "en",
        "utterance": "nine",
        "target": '{"name": "alarm_set", "arguments": []}',
    }
    names = list(structured.process_results(doc, [""]))
    assert names[0] == "span_f1"
    assert set(names) == {
        f"{name}{suffix}" for name in structured.metrics({"source": "mini"}) for suffix in ("", "_stderr")
    }
    for metric in METRICS:
        items = [structured.counts(doc, output) for output in ("", doc["target"], "{}")]
        scores = [ItemScore(0.0, counts) for counts in items]
        pooled = float(METRICS[metric](np.array(items).sum(0)))
        assert getattr(structured, metric)(scores) == pytest.approx(pooled, nan_ok=True)
        error = bootstrap.stderr(np.array(items), METRICS[metric])
        assert getattr(structured, f"{metric}_stderr")(scores) == pytest.approx(error, nan_ok=True)


def test_callers_may_change_the_metrics_of_a_task() -> None:
    structured.metrics({"source": "mini"}).clear()
    assert structured.metrics({"source": "mini"})
