"""JSON-structured generation for lm-eval: entities or a function call as one line of JSON, and its score."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

from midalign.data import EntityData, TaskData, own
from midalign.data.overlap import SplitText
from midalign.data.registry import data_set, slot_data
from midalign.errors import DataError, first_line
from midalign.families.aggregation import ItemScore, aggregations_by_name, item_scores
from midalign.families.shots import TaskSplits, draw_shots
from midalign.families.slot import split_items
from midalign.metrics.structured import METRICS, Tagged, call, count_structured, entities
from midalign.tasks import tasks_dir

if TYPE_CHECKING:
    from midalign.data.items import Item
    from midalign.data.uner import Sentence


def dataset(**metadata: Any) -> TaskSplits:
    """Return the splits of a task. lm-eval's `custom_dataset` calls it with the task's metadata."""
    return TaskSplits(partial(_documents, metadata))


def _documents(metadata: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    source, language = metadata["source"], metadata["language"]
    if own.is_own(source):
        return _own_documents(own.OwnData(source), language, split)
    data = data_set(source)
    if isinstance(data, EntityData):
        if split == "shots":
            sentences = draw_shots(data.sentences(*data.shots_from(language)))
        else:
            sentences = data.sentences(metadata["treebank"], split)
        return [entities_document(sentence, source, language) for sentence in sentences]
    items = split_items(source, language, split)
    return [call_document(item, source, language) for item in items]


def _own_documents(source: own.OwnData, language: str, split: str) -> list[dict[str, Any]]:
    if split != "shots":
        rows = source.rows(language, split)
    else:
        rows = draw_shots(source.rows(language, "train")) if "train" in source.splits(language) else []
    return [
        {"id": row.id, "dataset": source.name, "language": language, "text": row.text, "target": row.answer}
        for row in rows
    ]


def call_document(item: "Item", source: str, language: str) -> dict[str, Any]:
    """Return the document of an utterance to be written as a call."""
    return {
        "id": item.id,
        "dataset": source,
        "language": language,
        "intent": item.intent,
        "utterance": item.utterance,
        "target": call(item.intent, item.slots),
    }


def entities_document(sentence: "Sentence", source: str, language: str) -> dict[str, Any]:
    """Return the document of a text with entities."""
    return {
        "id": sentence.id,
        "dataset": source,
        "language": language,
        "text": sentence.text,
        "tokens": json.dumps(sentence.tokens),
        "spans": json.dumps(sentence.spans),
        "target": entities(sentence.entities),
    }


def answer_schema(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a task's answers. Raises DataError if it does not compile."""
    return _schema(metadata["source"])


@cache
def _schema(source: str) -> dict[str, Any]:
    import jsonschema

    if own.is_own(source):
        return _own_schema(own.OwnData(source).labels("type"))
    path = tasks_dir() / "structured" / f"{source}.schema.json"
    try:
        schema: dict[str, Any] = json.loads(path.read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(schema)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        raise DataError(
            f"{path} is not a JSON Schema of draft 2020-12 ({first_line(error)}). In a checkout run "
            f"python scripts/generate_tasks.py, otherwise reinstall midalign"
        ) from error
    return schema


def _own_schema(types: Sequence[str]) -> dict[str, Any]:
    """Return UNER's schema with other types, or with any type for a file without entities."""
    schema: dict[str, Any] = json.loads(json.dumps(_schema("uner")))
    type = schema["properties"]["entities"]["items"]["properties"]["type"]
    type.pop("enum")
    if types:
        type["enum"] = list(types)
    return schema


def instruction(source: str) -> str:
    """Return the beginning of prompts for a user's own entities."""
    types = own.OwnData(source).labels("type") or ["..."]
    example = json.dumps({"entities": [{"type": types[0], "text": "..."}]})
    return (
        f"Write the entities that the text names ({', '.join(types)}) as JSON, in order of appearance, "
        f"as words of the text: {example}\n\n"
    )


@cache
def _complies(source: str) -> Callable[[Any], bool]:
    import jsonschema

    complies: Callable[[Any], bool] = jsonschema.Draft202012Validator(_schema(source)).is_valid
    return complies


def constraint(doc: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a document's answers."""
    return answer_schema(metadata)


def metrics(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a task.

    Entities of treebanks have places and no intent, calls have an intent and no places, and a user's entities
    have neither.
    """
    return dict(_metrics(metadata["source"]))


@cache
def _metrics(source: str) -> dict[str, Any]:
    if own.is_own(source):
        absent = {"intent_accuracy", "span_f1_seqeval"}
    else:
        absent = {"intent_accuracy" if isinstance(data_set(source), EntityData) else "span_f1_seqeval"}
    return {metric: rate for metric, rate in METRICS.items() if metric not in absent}


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """Return metrics.structured.COLUMNS of an output's first line.

    Engines stop there, other programs may go on.
    """
    line = output.strip().partition("\n")[0]
    complies = _complies(doc["dataset"])
    if "utterance" in doc:
        return count_structured(doc["target"], line, doc["utterance"], complies, doc["language"])
    if "spans" not in doc:
        return count_structured(doc["target"], line, doc["text"], complies, doc["language"])
    spans = [(type, first, end) for type, first, end in json.loads(doc["spans"])]
    tagged = Tagged(json.loads(doc["tokens"]), spans)
    return count_structured(doc["target"], line, doc["text"], complies, doc["language"], tagged)


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, ItemScore]:
    """Return the document's value of each of the task's metrics, which lm-eval logs and aggregates."""
    return item_scores("structured", counts(doc, results[0]), metrics({"source": doc["dataset"]}))


def signatures(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return an empty dict: the task version says how these metrics are computed."""
    return {}


def input_field(metadata: Mapping[str, Any]) -> str:
    """Return the field of the utterance to call, or of the text with entities."""
    source = metadata["source"]
    return "text" if own.is_own(source) or isinstance(data_set(source), EntityData) else "utterance"


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set's digest of a split of a task."""
    part = metadata.get("treebank") or metadata["language"]
    source = metadata["source"]
    data = own.OwnData(source) if own.is_own(source) else cast(TaskData, data_set(source))
    return data.digest(part, split)


def origin(metadata: Mapping[str, Any], split: str) -> str:
    """Return the name of the data set that a split of a task comes from."""
    return str(metadata["source"])


def texts(metadata: Mapping[str, Any], split: str) -> list[SplitText]:
    """Return the utterances or texts of a split. Raises TaskError if a treebank lacks it."""
    source, language = metadata["source"], metadata["language"]
    if own.is_own(source):
        sentences = [row.text for row in own.OwnData(source).rows(language, split)]
    elif isinstance(data := data_set(source), EntityData):
        sentences = [sentence.text for sentence in data.sentences(metadata["treebank"], split)]
    else:
        sentences = [item.utterance for item in slot_data(source).items(language, split)]
    return [SplitText(source, split, language, sentences)]


if not TYPE_CHECKING:  # with it, type checkers would accept any attribute
    __getattr__ = aggregations_by_name(METRICS)
