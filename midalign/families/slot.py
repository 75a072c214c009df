"""Slot filling for lm-eval: the data set of a language, the target, and the score of a document."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from midalign.data.annotation import split_spans
from midalign.data.overlap import SplitText
from midalign.data.registry import slot_data
from midalign.errors import DataError
from midalign.families import slot_grammar
from midalign.families.aggregation import ItemScore, aggregations_by_name, item_scores
from midalign.families.shots import TaskSplits, draw_shots
from midalign.metrics.slot import METRICS, count_slots, target

if TYPE_CHECKING:
    from midalign.data.items import Item


def dataset(*, source: str, language: str, **_: Any) -> TaskSplits:
    """Return the splits of a task. lm-eval's `custom_dataset` calls it with the task's metadata."""
    return TaskSplits(partial(_slot_documents, source, language))


def _slot_documents(source: str, language: str, split: str) -> list[dict[str, Any]]:
    return [slot_document(item, source, language) for item in split_items(source, language, split)]


def split_items(source: str, language: str, split: str) -> "Sequence[Item]":
    """Return the items of a split, or the few-shot pool for the split `shots`.

    The pools of MASSIVE and the mini benchmark are translations of each other, those of xSID are not.
    """
    data = slot_data(source)
    if split != "shots":
        return data.items(language, split)
    if data.SHOT_SPLIT not in data.splits(language):
        return []
    return draw_shots(data.items(language, data.SHOT_SPLIT))


def slot_document(item: "Item", source: str, language: str) -> dict[str, Any]:
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
    """Return metrics.slot.COLUMNS of an output's first line. Engines stop there, other programs may go on."""
    gold = [(label, value) for label, value in json.loads(doc["slots"])]
    line = output.strip().partition("\n")[0]
    return count_slots(gold, line, doc["utterance"], doc["annotated"], doc["language"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, ItemScore]:
    """Return the document's value of every metric, which lm-eval logs and aggregates."""
    return item_scores("slot", counts(doc, results[0]), METRICS)


def metrics(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all metrics of the family, which every task has."""
    return METRICS


def constraint(doc: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return the grammar of a document's answers: slots of its data set, values from its utterance."""
    return slot_grammar.build_slot_grammar(
        doc["utterance"], slot_data(metadata["source"]).labels("slot"), doc["language"]
    )


def signatures(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return an empty dict: the task version says how these metrics are computed."""
    return {}


def input_field(metadata: Mapping[str, Any]) -> str:
    """Return the field of the utterance."""
    return "utterance"


def switch_words(doc: Mapping[str, Any], translate: Callable[..., str]) -> dict[str, Any]:
    """Return a document with translations of words outside its slots and of whole values.

    Args:
        doc: A document of `slot_document`.
        translate: called as `translate(text, whole=False)` with the text between slots, and as
            `translate(value, whole=True)` with a value, which must not be half translated.
    """
    utterance, slots, end = "", [], 0
    for label, piece in split_spans(doc["annotated"]):
        match = re.compile(r"\s+".join(map(re.escape, piece.split()))).search(doc["utterance"], end)
        if match is None:
            raise DataError(
                f"item {doc['id']}: the annotation has {piece!r}, which is not in {doc['utterance']!r}"
            )
        utterance += doc["utterance"][end : match.start()]
        end = match.end()
        piece = translate(piece, whole=label is not None)
        if label is not None:
            slots.append((label, piece))
        utterance += piece
    return {
        **doc,
        "utterance": utterance + doc["utterance"][end:],
        "slots": json.dumps(slots, ensure_ascii=False),
        "target": target(slots),
    }


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set's digest of a split of a task."""
    return slot_data(metadata["source"]).digest(metadata["language"], split)


def origin(metadata: Mapping[str, Any], split: str) -> str:
    """Return the name of the data set that a split of a task comes from."""
    return str(metadata["source"])


def texts(metadata: Mapping[str, Any], split: str) -> list[SplitText]:
    """Return the utterances of a split."""
    source, language = metadata["source"], metadata["language"]
    utterances = [item.utterance for item in slot_data(source).items(language, split)]
    return [SplitText(source, split, language, utterances)]


if not TYPE_CHECKING:  # with it, type checkers would accept any attribute
    __getattr__ = aggregations_by_name(METRICS)
