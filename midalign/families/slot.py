"""Slot filling for lm-eval: the data set of a language, the target, and the score of a document."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign.metrics import bootstrap
from midalign.metrics.slot import METRICS, count

if TYPE_CHECKING:
    import datasets

    from midalign.data.items import Item

BY_CHARACTER = ("ja", "zh", "zh_cn", "zh_tw")
"""Languages whose annotations the published scorer reads character by character."""


class Splits(dict[str, "datasets.Dataset"]):
    """Splits of one language, each read when lm-eval first asks for it."""

    def __init__(self, source: str, language: str) -> None:
        self.source, self.language = source, language

    def __missing__(self, split: str) -> "datasets.Dataset":
        import datasets

        from midalign.data import massive, mini

        items = {"massive": massive, "mini": mini}[self.source].items(self.language, split)
        self[split] = datasets.Dataset.from_list(
            [document(item, self.source, self.language) for item in items]
        )
        return self[split]


def dataset(*, source: str, language: str, **_: Any) -> Splits:
    """What lm-eval's `custom_dataset` calls with a task's metadata: train, validation and test."""
    return Splits(source, language)


def document(item: "Item", source: str, language: str) -> dict[str, Any]:
    """One document: all that a prompt or a score needs."""
    annotated = spaced(item.annotated) if source == "mini" else item.annotated
    return {
        "id": item.id,
        "language": language,
        "utterance": item.utterance,
        "annotated": annotated,
        "tokens": re.sub(r"\[\S+ : (.+?)\]", r"\1", annotated) if source == "mini" else item.utterance,
        "slots": json.dumps(item.slots, ensure_ascii=False),
        "target": target(item.slots),
    }


def spaced(annotated: str) -> str:
    """The annotation with blanks around its spans, as MASSIVE writes them and the published scorer reads."""
    return " ".join(re.sub(r"(\[\S+ : .+?\])", r" \1 ", annotated).split())


def target(slots: Sequence[tuple[str, str]]) -> str:
    """The right answer: `slot: value; slot: value` in order of appearance, or `None`."""
    return "; ".join(f"{label}: {value}" for label, value in slots) or "None"


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """metrics.slot.COLUMNS of an output."""
    return count(
        [(label, value) for label, value in json.loads(doc["slots"])],
        output,
        doc["tokens"],
        doc["annotated"],
        by_character=doc["language"] in BY_CHARACTER,
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, list[int]]:
    """Every metric is aggregated from the same counts; lm-eval prints `<metric>_stderr` as its ±."""
    item = counts(doc, results[0])
    return {f"{metric}{suffix}": item for metric in METRICS for suffix in ("", "_stderr")}


def _rate(metric: str) -> Callable[[list[list[int]]], float]:
    def rate(items: list[list[int]]) -> float:
        return float(METRICS[metric](np.array(items, np.int64).sum(0)))

    return rate


def _error(metric: str) -> Callable[[list[list[int]]], float]:
    def error(items: list[list[int]]) -> float:
        return bootstrap.stderr(np.array(items, np.int64), METRICS[metric])

    return error


# lm-eval finds an aggregation by its name in this module.
slot_f1, slot_f1_stderr = _rate("slot_f1"), _error("slot_f1")
slot_f1_reference, slot_f1_reference_stderr = _rate("slot_f1_reference"), _error("slot_f1_reference")
label_f1, label_f1_stderr = _rate("label_f1"), _error("label_f1")
value_f1, value_f1_stderr = _rate("value_f1"), _error("value_f1")
values_not_in_utterance = _rate("values_not_in_utterance")
values_not_in_utterance_stderr = _error("values_not_in_utterance")
exact_match, exact_match_stderr = _rate("exact_match"), _error("exact_match")
well_formed, well_formed_stderr = _rate("well_formed"), _error("well_formed")
