"""Relations between the counts of an item: what the scorers count keeps to them, and what keeps to them has
metrics in their range."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midalign.data import mini
from midalign.families import slot as slot_family
from midalign.families import slot_spans as spans_family
from midalign.families import structured as structured_family
from midalign.families import translation as translation_family
from midalign.metrics import FAMILIES, scorer

LARGEST = {"length_ratio": np.inf}
"""Of metrics that are neither a share nor a per cent."""


def violations(family: str, counts: np.ndarray) -> list[str]:
    """The family's relations that some item breaks."""
    columns = scorer(family).COLUMNS
    found = []
    for *parts, whole in scorer(family).AT_MOST:
        total = sum(counts[:, columns.index(part)] for part in parts)
        if (total > counts[:, columns.index(whole)]).any():
            found.append(f"{' + '.join(parts)} <= {whole}")
    return found


def allowed(family: str, counts: np.ndarray) -> np.ndarray:
    """The counts, lowered where they break a relation."""
    columns = scorer(family).COLUMNS
    counts = counts.copy()
    counts[:, columns.index("n")] = 1
    while violations(family, counts):
        for *parts, whole in scorer(family).AT_MOST:
            room = counts[:, columns.index(whole)].copy()
            for part in parts:
                counts[:, columns.index(part)] = np.minimum(counts[:, columns.index(part)], room)
                room -= counts[:, columns.index(part)]
    return counts


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 6), largest=st.integers(0, 9))
def test_metrics_of_allowed_counts_are_in_their_range(
    family: str, seed: int, items: int, largest: int
) -> None:
    scored = scorer(family)
    counts = np.random.default_rng(seed).integers(0, largest + 1, (items, len(scored.COLUMNS)))
    pooled = allowed(family, counts).sum(0)
    for name, metric in scored.METRICS.items():
        largest_value = LARGEST.get(name, 100 if metric.percent else 1)
        value = float(metric(pooled))
        assert np.isnan(value) or 0 <= value <= largest_value + 1e-9, name


@pytest.mark.parametrize("family", FAMILIES)
def test_each_relation_forbids_something(family: str) -> None:
    """A misspelt or vacuous relation would leave impossible counts alone."""
    columns = scorer(family).COLUMNS
    for relation in scorer(family).AT_MOST:
        counts = np.ones((1, len(columns)), np.int64)
        counts[0, columns.index(relation[0])] = 5
        assert f"{' + '.join(relation[:-1])} <= {relation[-1]}" in violations(family, counts)


def answers(target: str, others: list[str]) -> list[str]:
    """Outputs from right to broken."""
    middle = len(target) // 2
    return [target, target[:middle], f"{target}; {target}", target.upper(), "", "None", "{}", *others]


def test_counts_of_slots_keep_to_the_relations() -> None:
    for code in ("de", "ja", "hi"):
        items = mini.items(code, "test")[:40]
        docs = [slot_family.slot_document(item, "mini", code) for item in items]
        outputs = [
            text for i, doc in enumerate(docs) for text in answers(doc["target"], [docs[i - 1]["target"]])
        ]
        each = len(outputs) // len(docs)
        counts = [slot_family.counts(docs[i // each], text) for i, text in enumerate(outputs)]
        assert violations("slot", np.array(counts)) == []


@given(st.lists(st.sampled_from(["a: x", "b: x y", "a: y", "c", "a: z"]), max_size=5))
def test_counts_of_spans_keep_to_the_relations(parts: list[str]) -> None:
    doc = {
        "slots": json.dumps([["a", "x"], ["b", "y"], ["a", "y"]]),
        "spans": json.dumps([["a", 0, 1], ["b", 1, 2], ["a", 3, 4]]),
        "words": json.dumps(["x", "y", "z", "y"]),
        "utterance": "x y z y",
        "annotated": "",
        "language": "de",
    }
    assert violations("slot_spans", np.array([spans_family.counts(doc, "; ".join(parts))])) == []


def test_counts_of_json_keep_to_the_relations() -> None:
    docs = [structured_family.call_document(item, "mini", "de") for item in mini.items("de", "test")[:40]]
    for i, doc in enumerate(docs):
        outputs = answers(doc["target"], [docs[i - 1]["target"], doc["target"].replace('"name"', '"nom"')])
        counts = [structured_family.counts(doc, text) for text in outputs]
        assert violations("structured", np.array(counts)) == []


TEXT = st.text(alphabet="ab cé.,1日", max_size=12)


@settings(deadline=None)  # the first call imports sacreBLEU and loads the identifier
@given(TEXT, TEXT, TEXT)
def test_counts_of_translation_keep_to_the_relations(source: str, target: str, output: str) -> None:
    for language in ("de", "zh_cn"):
        doc = {"source": source, "target": target, "target_language": language}
        for text in (output, source, target, ""):
            counts = np.array([translation_family.counts(doc, text)])
            assert violations("translation", counts) == []
