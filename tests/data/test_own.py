"""A user's own data: what is read, what is refused, and that it is scored as the data sets are."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midalign import guard, harness
from midalign.data import cache, mini, own, uner
from midalign.errors import DataError, MidalignError, TaskError
from midalign.families import family
from midalign.metrics.structured import COLUMNS
from midalign.train.recipe import load_recipe

GOOD = [(name, json.loads(line)) for name, line in own.EXAMPLES.items()]
SLOT, TRANSLATION, STRUCTURED = (row for _, row in GOOD)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Rows to a file of a family; returns its spec. The cache is the test's."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    own._rows.cache_clear()

    def keep(family: str, *rows: Mapping[str, Any], name: str = "Mein Test_1.jsonl") -> str:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / name).write_text("".join(lines), "utf-8")
        return f"{family}:{tmp_path / name}"

    return keep


def slot_rows(language: str, split: str) -> list[dict[str, Any]]:
    return [
        {
            "language": language,
            "split": split,
            "id": item.id,
            "utterance": item.utterance,
            "slots": [{"slot": slot, "value": value} for slot, value in item.slots],
        }
        for item in mini.items(language, split)
    ]


def corrupted(text: str, draw: random.Random) -> str:
    """An answer with some of its characters dropped, doubled or swapped for a separator."""
    return "".join(draw.choice((c, c, c, c, c, c, c, "", c + c, ";", ":", " ")) for c in text)


@pytest.mark.parametrize("language", ["de", "zh", "ja", "hi"])
def test_slots_are_scored_as_those_of_the_mini_benchmark(kept: Callable[..., str], language: str) -> None:
    spec = kept("slot", *slot_rows(language, "test"), *slot_rows(language, "train")[:70])
    (name,) = harness.expand([spec])
    same_as(name, f"midalign_mini_slot_{language}")


def test_translations_are_scored_as_those_of_the_mini_benchmark(kept: Callable[..., str]) -> None:
    rows = [
        {"language": "en-ru", "id": one.id, "source": one.source, "target": one.target}
        for one in mini.read("en-ru", "test")
    ]
    (name,) = harness.expand([kept("translation", *rows)])
    same_as(name, "midalign_mini_mt_en-ru")


@pytest.mark.data
def test_entities_are_scored_as_those_of_uner(kept: Callable[..., str], shared_data: Path) -> None:
    kept("structured")  # the cache is the test's before anything is added to it
    uner.add(shared_data / "uner")
    rows = [
        {
            "language": "tl",
            "id": one.id,
            "text": one.text,
            "entities": [{"type": type, "text": text} for type, text in one.entities],
        }
        for one in uner.sentences("tl_trg", "test")
    ]
    (name,) = harness.expand([kept("structured", *rows)])
    ours, theirs = same_as(name, "midalign_json_uner_tl_trg")
    assert set(ours.aggregation()) == set(theirs.aggregation()) - {
        "span_f1_seqeval",
        "span_f1_seqeval_stderr",
    }


def same_as(name: str, shipped: str) -> tuple[Any, Any]:
    """Prompts of both are the same but for UNER's instruction, and so are the counts of corrupted answers."""
    tasks = harness.load_tasks([name, shipped])
    mine, theirs = tasks[name], tasks[shipped]
    draw = random.Random(0)
    structured = harness.metadata(name)["family"] == "structured"
    for ours, doc in zip(mine.test_docs(), theirs.test_docs(), strict=True):
        if not structured:
            assert harness.prompt(mine, ours) == harness.prompt(theirs, doc)
        assert mine.doc_to_target(ours) == theirs.doc_to_target(doc)
        answers = (ours["target"], "", corrupted(doc["target"], draw))
        for answer in answers:
            found, wanted = (
                family(harness.metadata(task.config.task)["family"]).counts(one, answer)
                for task, one in ((mine, ours), (theirs, doc))
            )
            if structured:  # by place, which a user's entities lack
                wanted[7] = found[7]
            assert found == wanted
    return mine, theirs


def test_the_group_and_its_tasks(kept: Callable[..., str]) -> None:
    rows = [{**SLOT, "split": "train"}, SLOT, {**SLOT, "language": "zh_cn"}]
    spec = kept("slot", *rows)
    group = harness.group_name(spec)
    assert group.startswith("own_slot_mein-test-1_")
    names = harness.expand([spec])
    assert names == [f"{group}_de", f"{group}_zh_cn"] == harness.expand([group])
    assert [harness.task_languages(name) for name in names] == [["de"], ["zh_cn"]]
    assert list(map(harness.has_training_split, names)) == [True, False]
    with pytest.raises(TaskError, match="no rows in zh_cn for validation, only for test"):
        own.OwnData(group).rows("zh_cn", "validation")
    with pytest.raises(TaskError, match=r"has no language 'fr'\. Available: de, zh_cn"):
        harness.metadata(f"{group}_fr")
    (learned,) = guard.training(spec)
    assert (learned.language, learned.sentences) == ("de", ("um neun",))


def test_types_and_slots_are_those_of_the_file(kept: Callable[..., str]) -> None:
    rows = [{**STRUCTURED, "entities": [{"type": type, "text": "Ulm"}]} for type in ("CITY", "Ort")]
    (name,) = harness.expand([kept("structured", rows[0], {**rows[1], "id": "b"})])
    (task,) = harness.load_tasks([name]).values()
    first, second = task.test_docs()
    assert harness.prompt(task, first).startswith(
        "Write the entities that the text names (CITY, Ort) as JSON"
    )
    complies = COLUMNS.index("complies")
    structured = family("structured")
    assert [structured.counts(doc, doc["target"])[complies] for doc in (first, second)] == [1, 1]
    assert structured.counts(first, first["target"].replace("CITY", "PER"))[complies] == 0
    entities = structured.constraint(first, harness.metadata(name))["properties"]["entities"]  # type: ignore[index]
    assert entities["items"]["properties"]["type"]["enum"] == ["CITY", "Ort"]

    (name,) = harness.expand([kept("slot", SLOT)])
    (task,) = harness.load_tasks([name]).values()
    grammar = str(family("slot").constraint(task.test_docs()[0], harness.metadata(name)))
    assert "time" in grammar
    assert "alarm" not in grammar


def test_a_recipe_is_named_by_what_the_file_holds(kept: Callable[..., str], tmp_path: Path) -> None:
    rows = [{**SLOT, "split": "train"}, SLOT]
    digests = set()
    for name in ("a/one.jsonl", "b/one.jsonl"):
        (tmp_path / name).parent.mkdir()
        spec = kept("slot", *rows, name=name)
        mine = load_recipe("mini", [f"task={spec}", "supervised=[de]", "aligned=[tr]"])
        digests.add(mine.digest("aligned"))
    assert len(digests) == 1
    changed = kept("slot", *rows, {**SLOT, "id": "more"}, name="a/one.jsonl")
    other = load_recipe("mini", [f"task={changed}", "supervised=[de]", "aligned=[tr]"])
    assert {other.digest("aligned")} != digests


def test_a_group_is_evaluated_in_the_languages_that_have_the_split(kept: Callable[..., str]) -> None:
    spec = kept("slot", {**SLOT, "language": "en", "split": "train"}, SLOT)
    every, tested = harness.expand([spec]), harness.expand([spec], "test")
    assert [name.rpartition("_")[2] for name in every] == ["en", "de"]
    assert tested == every[1:]
    assert [text.language for text in guard.scored([spec], "test")] == ["de"]
    with pytest.raises(TaskError, match="no rows in en for validation, only for train"):
        guard.scored([spec], "validation")
    with pytest.raises(TaskError, match="no rows in en for test"):
        guard.scored(every[:1], "test")


@pytest.mark.parametrize("form", ["utf-8-sig", "crlf", "blank lines"])
def test_what_editors_do_to_a_file(kept: Callable[..., str], tmp_path: Path, form: str) -> None:
    plain = harness.expand([kept("slot", SLOT, {**SLOT, "id": "b"}, name="one.jsonl")])
    text = (tmp_path / "one.jsonl").read_text("utf-8")
    changed = {
        "utf-8-sig": text.encode("utf-8-sig"),
        "crlf": text.replace("\n", "\r\n").encode(),
        "blank lines": text.replace("\n", "\n\n").encode(),
    }[form]
    (tmp_path / "one.jsonl").write_bytes(changed)
    again = harness.expand([f"slot:{tmp_path / 'one.jsonl'}"])
    assert (plain == again) == (form != "blank lines")  # then the lines have other numbers
    assert [len(own.OwnData(name.rpartition("_")[0]).items("de", "test")) for name in plain + again] == [2, 2]


@pytest.mark.parametrize(
    ("family", "row", "message"),
    [
        ("slot", {**SLOT, "language": "xx"}, "No language 'xx'"),
        ("slot", {**SLOT, "utterance": " "}, "utterance: found ' ', expected one line"),
        ("slot", {**SLOT, "utterance": "weck\num neun"}, "expected one line"),
        ("slot", {**SLOT, "slots": [{"slot": "time", "value": "zehn"}]}, "time: 'zehn' does not occur"),
        ("slot", {**SLOT, "slots": [{"slot": "a b", "value": "neun"}]}, "slots.0.slot: found 'a b'"),
        ("slot", {**SLOT, "slots": [{"slot": "", "value": "neun"}]}, "without blanks"),
        ("slot", {**SLOT, "slots": [{"slot": "a", "valeu": "neun"}]}, "slots.0.value is missing; expected {"),
        ("slot", {**SLOT, "utterance": "um 9;30", "slots": [{"slot": "a", "value": "9;30"}]}, "semicolons"),
        ("slot", {**SLOT, "utterance": "[a : b] um neun"}, "brackets that read as"),
        (
            "slot",
            {**SLOT, "slots": [{"slot": "a", "value": "neun"}, {"slot": "a", "value": "um"}]},
            "in order",
        ),
        ("slot", {**SLOT, "splt": "train"}, "unknown key splt"),
        ("slot", {**SLOT, "split": "dev"}, "split: found 'dev'"),
        ("slot", {**SLOT, "id": 7}, "id: found 7"),
        ("slot", [], "the line is not an object"),
        ("translation", {**TRANSLATION, "language": "de"}, "'de' is not a direction"),
        ("translation", {**TRANSLATION, "language": "en-xx"}, "No language 'xx'"),
        ("translation", {**TRANSLATION, "target": ""}, "target: found ''"),
        ("translation", {"language": "en-de", "source": "a"}, "target is missing"),
        ("structured", {**STRUCTURED, "entities": [{"type": "P", "text": "Bob"}]}, "P: 'Bob' does not occur"),
        ("structured", {**STRUCTURED, "entities": [{"type": "P", "text": ""}]}, "entities.0.text: found ''"),
    ],
)
def test_rows_that_are_refused(kept: Callable[..., str], family: str, row: Any, message: str) -> None:
    good = dict(GOOD)[family]
    spec = kept(family, good, row)
    with pytest.raises(DataError) as raised:
        harness.expand([spec])
    assert f"{spec.partition(':')[2]}, line 2: " in str(raised.value)
    assert message in str(raised.value)
    assert not (cache.cache_folder() / "own").exists()


def test_files_that_are_refused(kept: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 3: duplicate id 'x', which line 1"):
        harness.expand([kept("slot", {**SLOT, "id": "x"}, SLOT, {**SLOT, "id": "x"})])
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        harness.expand([f"slot:{tmp_path / 'absent.jsonl'}"])
    with pytest.raises(DataError, match="has no rows"):
        harness.expand([kept("slot")])
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{}\n{"utterance": "f\xfcnf"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl, line 2: not UTF-8"):
        harness.expand([f"slot:{path}"])
    for text in ("{\n", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(DataError, match="line 1: not JSON"):
            harness.expand([f"slot:{path}"])
    with pytest.raises(TaskError, match=r"is not in the cache .*slot:PATH"):
        harness.expand(["own_slot_gone_12345678"])
    with pytest.raises(TaskError, match="expected own_<family>"):
        harness.expand(["own_gone"])


def test_a_kept_file_that_was_altered(kept: Callable[..., str]) -> None:
    group = harness.group_name(kept("slot", SLOT))
    (file,) = (cache.cache_folder() / "own").iterdir()
    file.write_text(file.read_text("utf-8").replace("neun", "zehn"), "utf-8")
    with pytest.raises(DataError, match="was altered"):
        harness.expand([group])


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=3), TEXT)
def test_any_slots_are_read_back_or_refused(spans: list[tuple[str, str]], rest: str) -> None:
    """A row that is taken gives the slots that it was given, and its answer is scored as right."""
    utterance = "".join(f"{before} {value} " for before, value in spans) + rest
    row = {
        "language": "de",
        "utterance": utterance,
        "slots": [{"slot": "a", "value": value} for _, value in spans],
    }
    try:
        (one,) = own.parse_rows("slot", json.dumps(row), "test")
    except MidalignError:
        return
    assert isinstance(one, own.SlotRow)
    slot = family("slot")
    document = slot.slot_document(one.item, "own_slot_test_0", "de")  # type: ignore[attr-defined]
    counts = slot.counts(document, one.answer)
    assert json.loads(document["slots"]) == [["a", value.strip()] for _, value in spans]
    assert counts[1] == counts[2] == counts[3] == len(spans)
