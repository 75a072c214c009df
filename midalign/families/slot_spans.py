"""Slot filling on data with tagged words, for lm-eval: midalign.families.slot, scored as spans too."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from midalign.families import slot
from midalign.families.aggregation import ItemScore, aggregations_by_name, item_scores
from midalign.families.shots import TaskSplits
from midalign.families.slot import constraint, data_digest, input_field, origin, signatures, texts
from midalign.metrics.slot_spans import METRICS, count_spans

if TYPE_CHECKING:
    from midalign.data.items import TaggedItem

__all__ = [
    "constraint",
    "counts",
    "data_digest",
    "dataset",
    "input_field",
    "metrics",
    "origin",
    "process_results",
    "signatures",
    "tagged_document",
    "texts",
]


def dataset(*, source: str, language: str, **_: Any) -> TaskSplits:
    """Return the splits of a task. lm-eval's `custom_dataset` calls it with the task's metadata."""

    def read(split: str) -> list[dict[str, Any]]:
        items = cast("Sequence[TaggedItem]", slot.split_items(source, language, split))
        return [tagged_document(item, source, language) for item in items]

    return TaskSplits(read)


def tagged_document(item: "TaggedItem", source: str, language: str) -> dict[str, Any]:
    """Return one document: that of midalign.families.slot, with the words and their spans."""
    return {
        **slot.slot_document(item, source, language),
        "words": json.dumps(item.words, ensure_ascii=False),
        "spans": json.dumps(item.spans),
    }


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """Return metrics.slot_spans.COLUMNS of an output's first line.

    Engines stop there, other programs may go on.
    """
    gold = [(label, value) for label, value in json.loads(doc["slots"])]
    spans = [(label, start, end) for label, start, end in json.loads(doc["spans"])]
    line = output.strip().partition("\n")[0]
    return count_spans(gold, line, doc["utterance"], json.loads(doc["words"]), spans, doc["language"])


def metrics(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all metrics of the family, which every task has."""
    return METRICS


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, ItemScore]:
    """Return the document's value of every metric, which lm-eval logs and aggregates."""
    return item_scores("slot_spans", counts(doc, results[0]), METRICS)


if not TYPE_CHECKING:  # with it, type checkers would accept any attribute
    __getattr__ = aggregations_by_name(METRICS)
