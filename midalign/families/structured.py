"""JSON-structured generation for lm-eval: entities or a function call as one line of JSON, and its score."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from midalign.data import own
from midalign.data.overlap import Text
from midalign.errors import DataError, first_line
from midalign.families.aggregation import ItemScore, by_name, item_scores
from midalign.families.shots import with_pool
from midalign.metrics.structured import METRICS, Tagged, call, count, entities
from midalign.tasks import tasks_dir

if TYPE_CHECKING:
    import datasets

    from midalign.data.items import Item
    from midalign.data.uner import Sentence

One = TypeVar("One")

SHOTS = 64
"""Size of the few-shot pool, as in slot filling."""


class Splits(dict[str, "datasets.Dataset"]):
    """Splits of one task, each read when it is first asked for: train, validation, test, and shots."""

    def __init__(self, read: Callable[[str], list[dict[str, Any]]]) -> None:
        self.read = read

    def __missing__(self, split: str) -> "datasets.Dataset":
        import datasets

        documents = datasets.Dataset.from_list(self.read(split))
        self[split] = with_pool(documents, partial(self.__getitem__, "shots"))
        return self[split]


def dataset(*, source: str, language: str, treebank: str = "", **_: Any) -> Splits:
    """Return the splits of a task for lm-eval's `custom_dataset`. `source` is "uner", "massive" or "mini"."""
    if source == "uner":
        return Splits(lambda split: _texts(language, treebank, split))
    if own.is_own(source):
        return Splits(lambda split: _own_texts(source, language, split))
    return Splits(lambda split: _utterances(source, language, split))


def _utterances(source: str, language: str, split: str) -> list[dict[str, Any]]:
    items = _module(source).items(language, "train" if split == "shots" else split)
    return [utterance(item, source, language) for item in _shots(split, items)]


def _texts(language: str, treebank: str, split: str) -> list[dict[str, Any]]:
    from midalign.data import uner

    where = shots_from(language) if split == "shots" else (treebank, split)
    return [text(sentence, language) for sentence in _shots(split, uner.sentences(*where))]


def _own_texts(source: str, language: str, split: str) -> list[dict[str, Any]]:
    theirs = own.Source(source)
    if split == "shots" and "train" not in theirs.splits(language):
        return []
    rows = theirs.rows(language, "train" if split == "shots" else split)
    return [
        {"id": row.id, "dataset": source, "language": language, "text": row.text, "target": row.answer}
        for row in _shots(split, list(rows))
    ]


def shots_from(language: str) -> tuple[str, str]:
    """Return (treebank, split) of the few-shot examples for a language of UNER.

    It is the language's training split, or the validation split of the English EWT if no treebank of the
    language has one.
    """
    from midalign.data import uner

    own = (name for name, code in uner.treebanks().items() if code == language)
    return next(((name, "train") for name in own if "train" in uner.splits(name)), ("en_ewt", "validation"))


def _shots(split: str, items: list[One]) -> list[One]:
    """Return some items in a seeded order, as in slot filling.

    In file order they would begin with one intent or document.
    """
    if split != "shots":
        return items
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))[:SHOTS]]


def utterance(item: "Item", source: str, language: str) -> dict[str, Any]:
    """Return one utterance to be called, with everything that a prompt or a score needs."""
    return {
        "id": item.id,
        "dataset": source,
        "language": language,
        "intent": item.intent,
        "utterance": item.utterance,
        "target": call(item.intent, item.slots),
    }


def text(sentence: "Sentence", language: str) -> dict[str, Any]:
    """Return one text with entities, with everything that a prompt or a score needs."""
    return {
        "id": sentence.id,
        "dataset": "uner",
        "language": language,
        "text": sentence.text,
        "tokens": json.dumps(sentence.tokens),
        "spans": json.dumps(sentence.spans),
        "target": entities(sentence.entities),
    }


def _module(name: str) -> Any:
    """Return the module of a data set of utterances, or a user's file."""
    from midalign.data import massive, mini

    if own.is_own(name):
        return own.Source(name)
    return {"massive": massive, "mini": mini}[name]


def schema(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a task's answers. Raises DataError if it does not compile."""
    return _schema(metadata["source"])


@cache
def _schema(source: str) -> dict[str, Any]:
    import jsonschema

    if own.is_own(source):
        return _own_schema(own.Source(source).labels("type"))
    path = tasks_dir() / "structured" / f"{source}.schema.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(found)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        raise DataError(
            f"{path} is no JSON Schema ({first_line(error)}); expected one of draft 2020-12. "
            f"In a checkout: python scripts/generate_tasks.py, else reinstall midalign"
        ) from None
    return found


def _own_schema(types: Sequence[str]) -> dict[str, Any]:
    """Return UNER's schema with other types, or with any type for a file without entities."""
    schema: dict[str, Any] = json.loads(json.dumps(_schema("uner")))
    type = schema["properties"]["entities"]["items"]["properties"]["type"]
    type.pop("enum")
    if types:
        type["enum"] = list(types)
    return schema


def instruction(source: str) -> str:
    """Return the text that prompts for a user's own entities begin with."""
    types = own.Source(source).labels("type") or ["..."]
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
    return schema(metadata)


def metrics(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of a task.

    UNER's entities have places and no intent, calls have an intent and no places, and a user's entities have
    neither.
    """
    lacks = {"uner": ("intent_accuracy",), "massive": ("span_f1_seqeval",), "mini": ("span_f1_seqeval",)}
    absent = lacks.get(metadata["source"], ("intent_accuracy", "span_f1_seqeval"))
    return {metric: rate for metric, rate in METRICS.items() if metric not in absent}


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """Return metrics.structured.COLUMNS of an output's first line.

    Engines stop there, other programs may not.
    """
    line = output.strip().partition("\n")[0]
    complies = _complies(doc["dataset"])
    if "utterance" in doc:
        return count(doc["target"], line, doc["utterance"], complies, doc["language"])
    if "spans" not in doc:
        return count(doc["target"], line, doc["text"], complies, doc["language"])
    spans = [(type, first, end) for type, first, end in json.loads(doc["spans"])]
    tagged = Tagged(json.loads(doc["tokens"]), spans)
    return count(doc["target"], line, doc["text"], complies, doc["language"], tagged)


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, ItemScore]:
    """Return what lm-eval logs and aggregates: the document's value of each of the task's metrics."""
    return item_scores("structured", counts(doc, results[0]), metrics({"source": doc["dataset"]}))


def signatures(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return nothing: the task version says how these metrics are computed."""
    return {}


def input_field(metadata: Mapping[str, Any]) -> str:
    """Return the field of the utterance to call, or of the text with entities."""
    return "utterance" if metadata["source"] in ("massive", "mini") else "text"


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set's digest of a split of a task."""
    if metadata["source"] == "uner":
        from midalign.data import uner

        return uner.digest(metadata["treebank"], split)
    return str(_module(metadata["source"]).digest(metadata["language"], split))


def origin(metadata: Mapping[str, Any], split: str) -> str:
    """Return the name of the data set that a split of a task comes from."""
    return str(metadata["source"])


def texts(metadata: Mapping[str, Any], split: str) -> list[Text]:
    """Return the utterances or texts of a split. Raises TaskError if a treebank lacks it."""
    source, language = metadata["source"], metadata["language"]
    if source == "uner":
        from midalign.data import uner

        found = [sentence.text for sentence in uner.sentences(metadata["treebank"], split)]
    elif own.is_own(source):
        found = [row.text for row in own.Source(source).rows(language, split)]
    else:
        found = [item.utterance for item in _module(source).items(language, split)]
    return [Text(source, split, language, found)]


globals().update(by_name(METRICS))  # lm-eval finds an aggregation by its name in this module
