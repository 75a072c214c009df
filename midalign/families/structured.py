"""JSON-structured generation for lm-eval: entities or a function call as one line of JSON, and its score."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign.errors import DataError
from midalign.families.aggregation import by_name, under_every_name
from midalign.metrics.structured import METRICS, call, count
from midalign.tasks import tasks_dir

if TYPE_CHECKING:
    import datasets

    from midalign.data.items import Item

SHOTS = 64
"""Size of the few-shot pool, as in slot filling."""


class Splits(dict[str, "datasets.Dataset"]):
    """Splits of one task, each read when it is first asked for: train, validation, test, and shots."""

    def __init__(self, read: Callable[[str], list[dict[str, Any]]]) -> None:
        self.read = read

    def __missing__(self, split: str) -> "datasets.Dataset":
        import datasets

        self[split] = datasets.Dataset.from_list(self.read(split))
        return self[split]


def dataset(*, source: str, language: str, **_: Any) -> Splits:
    """What lm-eval's `custom_dataset` calls with a task's metadata; `source` is "massive" or "mini"."""
    return Splits(lambda split: _calls(source, language, split))


def _calls(source: str, language: str, split: str) -> list[dict[str, Any]]:
    """Documents of a language; the shots are training items in a seeded order, as in slot filling."""
    items = _module(source).items(language, "train" if split == "shots" else split)
    if split == "shots":
        items = [items[i] for i in np.random.default_rng(0).permutation(len(items))[:SHOTS]]
    return [call_document(item, source, language) for item in items]


def call_document(item: "Item", source: str, language: str) -> dict[str, Any]:
    """One utterance: all that a prompt or a score needs."""
    return {
        "id": item.id,
        "dataset": source,
        "language": language,
        "intent": item.intent,
        "utterance": item.utterance,
        "target": call(item.intent, item.slots),
    }


def _module(name: str) -> Any:
    """The data set's module."""
    from midalign.data import massive, mini

    return {"massive": massive, "mini": mini}[name]


def schema(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a task's answers; raises DataError where it does not compile."""
    return _schema(metadata["source"])


@cache
def _schema(source: str) -> dict[str, Any]:
    import jsonschema

    path = tasks_dir() / "structured" / f"{source}.schema.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        jsonschema.Draft202012Validator.check_schema(found)
    except (OSError, ValueError, jsonschema.SchemaError) as error:
        raise DataError(
            f"{path} is no JSON Schema ({str(error).splitlines()[0]}); expected one of draft 2020-12. "
            f"In a checkout: python scripts/generate_tasks.py, else reinstall midalign"
        ) from None
    return found


@cache
def _complies(source: str) -> Callable[[Any], bool]:
    import jsonschema

    complies: Callable[[Any], bool] = jsonschema.Draft202012Validator(_schema(source)).is_valid
    return complies


def metrics(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of a task: entities have places and no intent, with calls it is the other way round."""
    return _without("intent_accuracy" if metadata["source"] == "uner" else "span_f1_seqeval")


def _without(name: str) -> dict[str, Any]:
    return {metric: rate for metric, rate in METRICS.items() if metric != name}


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """metrics.structured.COLUMNS of an output's first line: engines stop there, others may not."""
    line = output.strip().partition("\n")[0]
    return count(doc["target"], line, doc["utterance"], _complies(doc["dataset"]))


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, list[int]]:
    """What lm-eval aggregates: the document's counts under every name of the task's metrics."""
    return under_every_name(counts(doc, results[0]), metrics({"source": doc["dataset"]}))


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """The data set's own digest of a split of a task."""
    return str(_module(metadata["source"]).digest(metadata["language"], split))


globals().update(by_name(METRICS))  # lm-eval finds an aggregation by its name in this module
