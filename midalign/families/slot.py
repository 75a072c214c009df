"""Slot filling for lm-eval: the data set of a language, the target, and the score of a document."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign.data import own
from midalign.data.overlap import Text
from midalign.families import slot_grammar
from midalign.families.aggregation import ItemScore, by_name, item_scores
from midalign.families.shots import with_pool
from midalign.metrics.slot import METRICS, count, target

if TYPE_CHECKING:
    import datasets

    from midalign.data.items import Item

SHOTS = 64
"""Size of the few-shot pool. lm-eval copies the pool when it loads a task, and compares each document with
all of it when it draws: all 11,514 training documents of a language would cost more than the rest."""

SHOTS_FROM = {"xsid": "validation"}
"""The split that few-shot examples come from, where it is not the training split: xSID has none in most
languages."""


class Splits(dict[str, "datasets.Dataset"]):
    """Splits of one language, each read when it is first asked for: train, validation, test, and shots."""

    def __init__(self, source: str, language: str, document: Callable[..., dict[str, Any]]) -> None:
        self.source, self.language, self.document = source, language, document

    def __missing__(self, split: str) -> "datasets.Dataset":
        import datasets

        items = self._shots() if split == "shots" else self._items(split)
        documents = datasets.Dataset.from_list(
            [self.document(item, self.source, self.language) for item in items]
        )
        self[split] = with_pool(documents, partial(self.__getitem__, "shots"))
        return self[split]

    def _items(self, split: str) -> "list[Item]":
        found: list[Item] = _source(self.source).items(self.language, split)
        return found

    def _shots(self) -> "list[Item]":
        """Return items of SHOTS_FROM in a seeded order, because file order begins with alarms only.

        The shots of MASSIVE and the mini benchmark are translations of each other, those of xSID are not.
        """
        if own.is_own(self.source) and "train" not in own.Source(self.source).splits(self.language):
            return []
        items = self._items(SHOTS_FROM.get(self.source, "train"))
        return [items[i] for i in np.random.default_rng(0).permutation(len(items))[:SHOTS]]


def _source(name: str) -> Any:
    """Return the data set's module, or a user's file."""
    from midalign.data import massive, mini, xsid

    if own.is_own(name):
        return own.Source(name)
    return {"massive": massive, "mini": mini, "xsid": xsid}[name]


def dataset(*, source: str, language: str, **_: Any) -> Splits:
    """Return the splits of a task. lm-eval's `custom_dataset` calls it with the task's metadata."""
    return Splits(source, language, document)


def document(item: "Item", source: str, language: str) -> dict[str, Any]:
    """Return one document, with everything that a prompt or a score needs."""
    return {
        "id": item.id,
        "language": language,
        "intent": item.intent,
        "utterance": item.utterance,
        "annotated": spaced(item.annotated) if source == "mini" else item.annotated,
        "slots": json.dumps(item.slots, ensure_ascii=False),
        "target": target(item.slots),
    }


def spaced(annotated: str) -> str:
    """Return the annotation with blanks around its spans, as in MASSIVE and for the published scorer."""
    return " ".join(re.sub(r"(\[\S+ : .+?\])", r" \1 ", annotated).split())


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """Return metrics.slot.COLUMNS of an output's first line. Engines stop there, other programs may not."""
    gold = [(label, value) for label, value in json.loads(doc["slots"])]
    line = output.strip().partition("\n")[0]
    return count(gold, line, doc["utterance"], doc["annotated"], doc["language"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, ItemScore]:
    """Return what lm-eval logs and aggregates: the document's value of every metric."""
    return item_scores("slot", counts(doc, results[0]), METRICS)


def metrics(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all metrics of the family, which every task has."""
    return METRICS


def constraint(doc: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return the grammar of a document's answers: slots of its data set, values from its utterance."""
    return slot_grammar.grammar(doc["utterance"], _source(metadata["source"]).labels("slot"), doc["language"])


def signatures(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return nothing: the task version says how these metrics are computed."""
    return {}


def input_field(metadata: Mapping[str, Any]) -> str:
    """Return the field of the utterance."""
    return "utterance"


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set's digest of a split of a task."""
    return str(_source(metadata["source"]).digest(metadata["language"], split))


def origin(metadata: Mapping[str, Any], split: str) -> str:
    """Return the name of the data set that a split of a task comes from."""
    return str(metadata["source"])


def texts(metadata: Mapping[str, Any], split: str) -> list[Text]:
    """Return the utterances of a split."""
    source, language = metadata["source"], metadata["language"]
    utterances = [item.utterance for item in _source(source).items(language, split)]
    return [Text(source, split, language, utterances)]


globals().update(by_name(METRICS))  # lm-eval finds an aggregation by its name in this module
