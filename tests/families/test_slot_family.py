"""The data set that lm-eval gets, and the score of a document."""

import json
import pickle
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midalign.data import annotation, massive, mini
from midalign.data.items import Item
from midalign.families import slot
from midalign.families.aggregation import ItemScore
from midalign.families.shots import SHOTS
from midalign.metrics.slot import COLUMNS, METRICS, parse_slots, reference_gold
from midalign.tasks import tasks_dir


def item(annotated: str) -> Item:
    return Item("7", "alarm_set", annotation.plain(annotated), annotated, annotation.slots(annotated))


def scored(annotated: str, output: str, language: str) -> dict[str, int]:
    doc = slot.slot_document(item(annotated), "mini", language)
    return dict(zip(COLUMNS, slot.counts(doc, output), strict=True))


def test_a_document_holds_what_prompt_and_score_need() -> None:
    document = slot.slot_document(item("wake me at [time : nine am] on [date : friday]"), "massive", "en")
    assert document == {
        "id": "7",
        "language": "en",
        "intent": "alarm_set",
        "utterance": "wake me at nine am on friday",
        "annotated": "wake me at [time : nine am] on [date : friday]",
        "slots": '[["time", "nine am"], ["date", "friday"]]',
        "target": "time: nine am; date: friday",
    }
    assert slot.slot_document(item("hello"), "mini", "en")["target"] == "None"


@pytest.mark.parametrize(
    ("annotated", "language", "tokens"),
    [
        ("Wake me at [time : nine am], please.", "en", ["Wake", "me", "at", "nine", "am", ",", "please."]),
        ("[place : Ankara]'da hava", "tr", ["Ankara", "'da", "hava"]),
        ("请[time : 早上七点]叫我", "zh", list("请早上七点叫我")),
        ("[date : 明日]の[time : 七時]", "ja", list("明日の七時")),
    ],
)
def test_the_reference_reads_mini_annotations(annotated: str, language: str, tokens: list[str]) -> None:
    """They have no blanks around their spans, which MASSIVE has and the published scorer needs."""
    document = slot.slot_document(item(annotated), "mini", language)
    assert reference_gold(document["annotated"], language)[0] == tokens
    row = scored(annotated, document["target"], language)
    slots = len(annotation.slots(annotated))
    assert (row["ref_tp"], row["ref_pred"], row["ref_gold"]) == (slots, slots, slots)
    assert row["values_outside"] == 0


@pytest.mark.parametrize(
    "output", ["time: nine am\n", "\n\ntime: nine am", "time: nine am\r\n\nAnything else?"]
)
def test_only_the_first_line_is_read(output: str) -> None:
    """Engines stop at a line break; outputs made elsewhere are cut there, so that both are scored alike."""
    row = scored("wake me at [time : nine am]", output, "en")
    assert (row["slot_pred"], row["exact"], row["well_formed"], row["ref_tp"]) == (1, 1, 1, 1)


def test_values_are_looked_up_in_the_utterance_and_not_in_the_spaced_annotation() -> None:
    assert scored("请[time : 早上七点]叫我", "time: 请早上", "zh")["values_outside"] == 0
    assert (
        scored("请[time : 早上七点]叫我", "time: 请 早上", "zh")["values_outside"] == 0
    )  # no blanks in Chinese
    assert scored("wake[time : nine]", "time: wakenine", "en")["values_outside"] == 0
    assert scored("wake[time : nine]", "time: wake nine", "en")["values_outside"] == 1


def best_value(metric: str) -> float:
    """Return the score of right answers."""
    return 0.0 if METRICS[metric].higher_is_better is False else 1.0


@pytest.mark.parametrize("code", ["en", "zh", "tr", "ja"])
def test_right_answers_of_the_mini_benchmark_are_right(code: str) -> None:
    docs = slot.dataset(source="mini", language=code)["test"]
    assert len(docs) == len(mini.items(code, "test"))
    pooled = np.array([slot.counts(doc, doc["target"]) for doc in docs]).sum(0)
    values = {name: float(metric(pooled)) for name, metric in METRICS.items()}
    assert values.pop("slot_f1_reference") > 0.95
    assert values == {name: best_value(name) for name in values}


@pytest.mark.data
@pytest.mark.slow
def test_right_answers_of_massive_get_what_the_readme_says(massive_cache: None) -> None:
    readme = (tasks_dir() / "slot" / "README.md").read_text("utf-8")
    said = {
        code: per_cent
        for per_cent, codes in re.findall(r"^\| ([\d.]+) \| ([a-z_ ]+) \|$", readme, re.MULTILINE)
        for code in codes.split()
    }
    assert len(said) == 52
    for code, per_cent in said.items():
        docs = slot.dataset(source="massive", language=code)["test"]
        pooled = np.array([slot.counts(doc, doc["target"]) for doc in docs]).sum(0)
        assert f"{100 * METRICS['slot_f1_reference'](pooled):.2f}" == per_cent, code


def test_splits_are_read_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def items(language: str, split: str) -> list[Item]:
        read.append(f"{language} {split}")
        return [item(f"hello [time : {i}]") for i in range(200)]

    monkeypatch.setattr(massive, "items", items)
    splits = slot.dataset(source="massive", language="sw", version=1, family="slot", pretrained="whatever")
    assert read == []
    assert splits["test"][3]["target"] == "time: 3"
    assert splits["test"] is splits["test"]
    assert read == ["sw test"]
    shots = [int(doc["target"].removeprefix("time: ")) for doc in splits["shots"]]
    assert len(set(shots)) == SHOTS
    assert shots != sorted(shots)  # a file begins with one intent
    assert max(shots) > 150
    assert read == ["sw test", "sw train"]


def test_shots_are_parallel_varied_and_from_training_items() -> None:
    pools = {code: slot.dataset(source="mini", language=code)["shots"] for code in ("en", "hi")}
    assert pools["en"]["id"][:] == pools["hi"]["id"][:]
    assert len(set(pools["en"]["id"])) == SHOTS
    assert len(set(pools["en"]["intent"][:8])) >= 4
    train = {one.id: one.utterance for one in mini.items("en", "train")}
    assert all(train[doc["id"]] == doc["utterance"] for doc in pools["en"])


def test_every_metric_has_a_number_and_the_counts_and_its_error_comes_after_it() -> None:
    doc = slot.slot_document(item("wake me at [time : nine am]"), "mini", "en")
    results = slot.process_results(doc, ["time: nine am"])
    names = list(results)
    assert names[0] == "slot_f1"
    assert set(names) == {*METRICS, *(f"{metric}_stderr" for metric in METRICS)}
    for metric in METRICS:
        assert names.index(f"{metric}_stderr") == names.index(metric) + 1
        assert callable(getattr(slot, metric))
        assert callable(getattr(slot, f"{metric}_stderr"))
    assert all(score.counts == slot.counts(doc, "time: nine am") for score in results.values())
    assert json.loads(json.dumps(results)) == {
        **{metric: best_value(metric) for metric in METRICS},
        **{f"{metric}_stderr": 0.0 for metric in METRICS},
    }


@pytest.mark.parametrize(("output", "right"), [("None", 1.0), ("none", 1.0), ("", 0.0), ("time: nine", 0.0)])
def test_a_right_none_scores_one(output: str, right: float) -> None:
    doc = slot.slot_document(item("hello"), "mini", "en")
    scores = slot.process_results(doc, [output])
    assert [scores[name] for name in ("slot_f1", "label_f1", "value_f1", "exact_match")] == [right] * 4


def test_item_scores_keep_their_counts_between_processes() -> None:
    """lm-eval gathers them by pickle from several processes."""
    score = ItemScore(0.5, [1, 2])
    again = pickle.loads(pickle.dumps(score))
    assert (again, again.counts) == (0.5, [1, 2])


@given(
    st.lists(
        st.lists(st.integers(0, 3), min_size=len(COLUMNS), max_size=len(COLUMNS)), min_size=2, max_size=20
    )
)
def test_aggregations_are_the_metrics_of_pooled_counts(items: Sequence[list[int]]) -> None:
    scores = [ItemScore(0.0, counts) for counts in items]
    for name, metric in METRICS.items():
        pooled = float(metric(np.array(items).sum(0)))
        assert getattr(slot, name)(scores) == pytest.approx(pooled, nan_ok=True)
        error = getattr(slot, f"{name}_stderr")(scores)
        assert error >= 0 or np.isnan(error)


@given(st.lists(st.tuples(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.text("ab :é三'\t", min_size=1))))
def test_targets_are_read_back(slots: list[tuple[str, str]]) -> None:
    slots = [(label, value.strip()) for label, value in slots if value.strip()]
    read = parse_slots(slot.target(slots))
    assert read.well_formed
    assert read.pairs == tuple(slots)
    assert json.loads(slot.slot_document(Item("1", "", "", "", tuple(slots)), "mini", "en")["slots"]) == [
        list(pair) for pair in slots
    ]


@pytest.mark.parametrize("code", ["en", "ja", "hi"])
def test_switching_replaces_words_and_values_and_nothing_else(code: str) -> None:
    documents = [slot.slot_document(item, "mini", code) for item in mini.items(code, "train")[:300]]
    for document in documents:
        same = slot.switch_words(document, lambda text, *, whole: text)
        assert {key: same[key] for key in ("utterance", "slots", "target")} == {
            key: document[key] for key in ("utterance", "slots", "target")
        }
        switched = slot.switch_words(document, lambda text, *, whole: "VALUE" if whole else "word")
        values = json.loads(document["slots"])
        assert json.loads(switched["slots"]) == [[label, "VALUE"] for label, _ in values]
        assert switched["utterance"].count("VALUE") == len(values)
        assert switched["target"] == ("; ".join(f"{label}: VALUE" for label, _ in values) or "None")
