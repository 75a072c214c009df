"""What is learned from and scored, by name; on real data what the field notes say of it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midalign import guard, harness, record
from midalign.data import alma, massive, mini, ntrex, tatoeba, wmt23
from midalign.data.overlap import Overlap, OverlapCheck, SplitText, find_overlaps, texts_digest
from midalign.errors import DataError, TaskError
from midalign.evaluate.external_outputs import score_outputs
from midalign.families import slot
from midalign.metrics.slot import METRICS

ROOT = Path(__file__).parents[1]


def midalign(*words: object, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "midalign", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def real(store_once: Callable[..., str]):
    """A cache with the real data sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDALIGN_CACHE", store_once(tatoeba, ntrex, alma, wmt23, massive))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def test_texts_of_tasks_and_groups_each_once() -> None:
    german = guard.scored(["midalign_mini_slot_de"], "test")
    assert [(text.dataset, text.split, text.language) for text in german] == [("mini", "test", "de")]
    assert list(german[0].sentences) == [item.utterance for item in mini.items("de", "test")]
    both = guard.scored(["midalign_mini_mt"], "validation")
    assert {text.language for text in both} == {"de", "en", "es", "fr", "hi", "id", "ja", "ru", "tr", "zh"}
    assert len(both) == 10
    (english,) = (text for text in both if text.language == "en")
    assert len(english.tasks) == 18
    assert len(guard.supervised(["midalign_mini_slot"])) == len(guard.training("mini")) == 10


def test_a_users_own_files(tmp_path: Path) -> None:
    (tmp_path / "de.tsv").write_text("\ufeffeins\tone\n zwei \ttwo\n")
    (tmp_path / "sw.tsv").write_text("moja\tone\n")
    texts = guard.training(str(tmp_path / "{language}.tsv"))
    assert [list(text.sentences) for text in texts] == [["eins", "one", "zwei", "two"], ["moja", "one"]]
    lines = [{"source": "a", "target": "b", "language": "de"}, {"utterance": "c", "slots": [["x", "y"]]}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [list(text.sentences) for text in guard.training(str(tmp_path / "own.jsonl"))] == [["a", "b", "c"]]


def test_text_that_changed_or_is_gone_is_unchecked(tmp_path: Path) -> None:
    scored = guard.scored(["midalign_mini_slot_de"], "test")
    file = tmp_path / "de.tsv"
    stolen = "".join(f"{item.utterance}\tx{i}\n" for i, item in enumerate(mini.items("de", "test")))
    file.write_text(stolen)
    pairs = guard.training_text("pairs", str(tmp_path / "{language}.tsv"), ["de"])
    task = guard.training_text("task", "midalign_mini_slot", ["en", "es"])
    found = guard.check_overlap([task, pairs], scored)
    assert [(one.test, one.split, one.exact) for one in found.found] == [("mini", "test", 300)]
    assert found.unchecked == []
    assert guard.check_overlap([task], scored) == OverlapCheck(found=[], unchecked=[])

    file.write_text("eins\tone\n")
    assert guard.check_overlap([task, pairs], scored) == OverlapCheck(
        found=[], unchecked=[f"{tmp_path}/{{language}}.tsv (de) has changed since training"]
    )
    file.unlink()
    assert guard.check_overlap([pairs], scored).unchecked == [
        f"{tmp_path}/{{language}}.tsv (de) is not available"
    ]
    file.write_text(stolen)
    older = pairs.model_copy(update={"digest": None})  # the file may be another one
    assert guard.check_overlap([older], scored).unchecked == [
        f"{tmp_path}/{{language}}.tsv (de) has no digest in midalign.json"
    ]
    assert guard.check_overlap(None, scored).unchecked == ["midalign.json does not name the training text"]
    stock = guard.training_text("task", "lm_eval:mgsm_direct_{language}", ["de"])
    assert "whose training text is not known" in guard.check_overlap([stock], scored).unchecked[0]


def test_the_digest_of_text_has_its_languages_and_sentences() -> None:
    texts = [SplitText("b", "train", "en", ["x", "y"]), SplitText("a", "train", "de", ["z"])]
    assert texts_digest(texts) == hashlib.sha256(b"de\tz\nen\tx\nen\ty\n").hexdigest()
    assert texts_digest(texts[::-1]) == texts_digest(texts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"source": "a"}\n{"slots": []}\n', r"own\.jsonl, line 2: found .*expected an object with text"),
        ("[]\n", "line 1"),
        ("\n{\n", "line 2"),
        (b'{"source": "\xff"}', "not UTF-8"),
    ],
)
def test_malformed_files(tmp_path: Path, content: str | bytes, message: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        guard.training(str(file))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("tatoba", DataError, "No training text 'tatoba'. Did you mean tatoeba"),
        ("nowhere/x.tsv", DataError, "cannot be read: No such file"),
        ("nowhere/{language}.tsv", DataError, "No file matches nowhere/"),
        ("midalign_mini_slt", TaskError, "Did you mean midalign_mini_slot"),
    ],
)
def test_names_that_are_not_there(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        guard.training(name)


def test_the_command_on_a_file_of_ones_own(tmp_path: Path) -> None:
    stolen = [item.utterance for item in mini.items("de", "test")][:40]
    (tmp_path / "de.tsv").write_text("".join(f"{text.upper()}!\tnothing of it\n" for text in stolen))
    words = ("data", "overlap", tmp_path / "{language}.tsv", "mini", "--test", "midalign_mini_slot")
    shown = midalign(*words)
    assert re.search(r"holds 4\d of 300 texts of mini test, de \(midalign_mini_slot_de\): 40 exact", shown)
    assert "Within one data set, 0 of 3,000 texts" in shown
    found = json.loads(midalign(*words, "--json"))
    (german,) = (one for one in found["overlap"] if one["found"])
    assert (german["exact"], german["texts"], german["language"]) == (40, 300, "de")
    assert german["examples"][0]["text"] in stolen
    assert Overlap.model_validate({k: v for k, v in german.items() if k != "found"}).found == german["found"]
    assert len(found["repeated"]) == 10
    assert "No overlap." in midalign("data", "overlap", "mini", "--test", "midalign_mini_slot")
    assert "Did you mean mini" in midalign("data", "overlap", "minni", "--test", "midalign_mini_mt", status=1)


@pytest.mark.exhaustive
@pytest.mark.data
@pytest.mark.slow
def test_alma_holds_ntrex_and_nothing_of_wmt23(real: None) -> None:
    found = find_overlaps(
        guard.training("alma"), guard.scored(["midalign_mt_ntrex", "midalign_mt_wmt23"], "test")
    )
    assert {one.test for one in found if one.found} == {"ntrex"}
    (english,) = (one for one in found if one.test == "ntrex" and one.language == "en")
    assert (english.exact, english.texts, english.found) == (1997, 1997, 1997)
    for code in ("cs", "de", "ru", "zh"):  # it stands in the file of each language
        (own,) = find_overlaps(
            [text for text in guard.supervised([f"midalign_mt_wmt23_en-{code}"]) if text.language == "en"],
            [text for text in guard.scored(["midalign_mt_ntrex_en-de"], "test") if text.language == "en"],
        )
        assert own.exact == 1997
    assert sum(one.exact - one.short + one.near for one in found if one.test == "wmt23") == 0


@pytest.mark.data
@pytest.mark.slow
def test_repetition_within_massive(real: None) -> None:
    learned, scored = guard.training("massive"), guard.scored(["midalign_slot"], "test")
    counts = {text.language: count for text, count in guard.repetitions(learned, scored)}
    assert sum(counts.values()) == 8974
    some = {"en": 21, "es": 136, "ru": 208, "zh_cn": 223, "km": 429}
    assert {code: counts[code] for code in some} == some
    assert find_overlaps(learned, scored) == []
    for code in some:
        items = guard.repeated_items(f"midalign_slot_{code}", "test")
        assert len(items) == some[code]
        known = {item.utterance for item in massive.items(code, "train")}
        docs = slot.dataset(**harness.metadata(f"midalign_slot_{code}"))["test"]
        assert [i for i, doc in enumerate(docs) if doc["utterance"] in known] == items


@pytest.mark.data
@pytest.mark.slow
def test_what_the_recipes_align_on_holds_no_test_text(real: None) -> None:
    """Coincidences are there ("where is the nearest gas station") and are too short to count."""
    scored = guard.scored(["midalign_slot", "midalign_mt_wmt23", "midalign_mini_slot"], "test")
    learned = [text for name in ("tatoeba", "massive", "mini") for text in guard.training(name)]
    found = find_overlaps(learned, scored)
    assert sum(one.short for one in found) > 100
    assert [one.sentence for one in found if one.found] == []


def test_where_another_data_set_is_trained_on_it_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert guard.repeated_items("midalign_mt_wmt23_en-de", "test") == []


@pytest.mark.data
@pytest.mark.slow
def test_scores_without_repeated_items_stand_beside_the_others(real: None, tmp_path: Path) -> None:
    task = "midalign_slot_km"
    docs = slot.dataset(**harness.metadata(task))["test"]
    repeated = set(guard.repeated_items(task, "test"))
    lines = [
        json.dumps({"doc_id": i, "output": doc["target"] if i in repeated or i % 2 else "None"}) + "\n"
        for i, doc in enumerate(docs)
    ]
    (tmp_path / "api.jsonl").write_text("".join(lines))
    entry, path = score_outputs(task, tmp_path / "api.jsonl", "test", tmp_path)
    result = entry.tasks[task]
    assert result.repeated == 429
    rows = np.array(
        [
            slot.counts(doc, json.loads(line)["output"])
            for i, (doc, line) in enumerate(zip(docs, lines, strict=True))
            if i not in repeated
        ]
    )
    assert set(result.without_repeated) == set(METRICS)
    for name, value in result.without_repeated.items():
        assert value == pytest.approx(float(METRICS[name](rows.sum(0))))
    assert result.without_repeated["slot_f1"] < result.metrics["slot_f1"].value
    items = record.read_items(path)[task]
    assert items.repeated.tolist() == sorted(repeated)
    assert np.array_equal(items.unrepeated, rows)
