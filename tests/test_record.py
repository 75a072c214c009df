"""The record: what is written is what is read, the schema is current, and the files stay small."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

from midalign import record
from midalign.errors import RecordError

COLUMNS = [
    "slot_tp",
    "slot_pred",
    "slot_gold",
    "ref_tp",
    "ref_pred",
    "ref_gold",
    "label_tp",
    "value_tp",
    "values_outside",
    "exact",
    "well_formed",
    "n",
]


def make(items: dict[str, record.Items], name: str = "tiny") -> record.Record:
    tasks = {
        task: record.TaskResult(
            language=task.rpartition("_")[2],
            family="slot",
            version=1.0,
            n=len(one.doc_ids),
            counts=dict(zip(COLUMNS, one.counts.sum(0).tolist(), strict=True)),
            metrics={"slot_f1": record.Metric(value=0.5, stderr=0.01, n=len(one.doc_ids))},
            data_digest="0" * 64,
            prompt_digest="1" * 64,
            seconds=1.5,
            tokens=1000,
        )
        for task, one in items.items()
    }
    return record.Record(
        name=name,
        created=datetime(2026, 11, 23, tzinfo=UTC),
        arm="base",
        seed=None,
        recipe=None,
        base=record.Base(name="tiny", digest="2" * 64),
        adapter=None,
        roles=record.Roles(supervised=["en"], aligned=["de"], unseen=["sw"]),
        engine=record.Engine(name="hf", dtype="float32", device="cpu"),
        decoding={"generation": {"until": ["\n"]}},
        sample=record.Sample(split="test", limit=None, seed=0),
        tasks=tasks,
        retrieval=None,
        packages={"torch": "2.13.0"},
        seconds=1.5,
        tokens=1000,
    )


def synthetic(rng: np.random.Generator, size: int) -> record.Items:
    """Counts as slot filling gives them: about one slot an item, half of them found."""
    gold = rng.poisson(1.1, size)
    pred = np.maximum(gold + rng.integers(-1, 2, size), 0)
    hit = rng.binomial(np.minimum(gold, pred), 0.5)
    label = hit + rng.binomial(np.minimum(gold, pred) - hit, 0.4)
    value = hit + rng.binomial(np.minimum(gold, pred) - hit, 0.3)
    ref = rng.binomial(pred, 0.9)
    columns = [hit, pred, gold, np.minimum(hit, ref), ref, gold, label, value, pred - ref]
    columns += [(hit == gold) & (pred == gold), rng.random(size) < 0.95, np.ones(size)]
    return record.Items(np.arange(size), np.stack(columns, 1).astype(np.int64))


@pytest.fixture
def items() -> dict[str, record.Items]:
    rng = np.random.default_rng(0)
    return {f"midalign_slot_{code}": synthetic(rng, 50) for code in ("en", "de")}


def test_written_is_read(tmp_path: Path, items: dict[str, record.Items]) -> None:
    entry = make(items)
    path = record.write(entry, items, tmp_path / "results")
    assert path == tmp_path / "results" / "tiny.json"
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.items.jsonl.zst", "tiny.json"]
    back = record.read(path)
    assert back.model_copy(update={"items": None}) == entry
    assert back.items is not None
    assert back.items.sha256 == hashlib.sha256((path.parent / back.items.file).read_bytes()).hexdigest()
    read = record.read_items(path)
    assert list(read) == list(items)
    for task, one in items.items():
        assert np.array_equal(read[task].counts, one.counts)
        assert np.array_equal(read[task].doc_ids, one.doc_ids)


def test_a_record_holds_several_families(tmp_path: Path, items: dict[str, record.Items]) -> None:
    """Each with the columns of its own."""
    english, german = items
    entry = make(items)
    other = entry.tasks[german].model_copy(update={"family": "translation", "counts": {"n": 3, "empty": 1}})
    mixed = {**items, german: record.Items(np.arange(3), np.array([[1, 0], [1, 1], [1, 0]]))}
    path = record.write(entry.model_copy(update={"tasks": {**entry.tasks, german: other}}), mixed, tmp_path)
    read = record.read_items(path)
    assert np.array_equal(read[german].counts, mixed[german].counts)
    assert np.array_equal(read[english].counts, items[english].counts)


def test_items_of_all_of_massive_are_small_enough_to_commit() -> None:
    rng = np.random.default_rng(0)
    items = {f"midalign_slot_{i}": synthetic(rng, 2974) for i in range(52)}
    assert sum(len(one.doc_ids) for one in items.values()) == 154_648
    assert len(record.pack(items, dict.fromkeys(items, COLUMNS))) < 1_000_000


def test_a_record_is_valid_json_schema(tmp_path: Path, items: dict[str, record.Items]) -> None:
    path = record.write(make(items), items, tmp_path)
    schema = json.loads((Path(record.__file__).parent / "record.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text("utf-8")), schema)
    broken = json.loads(path.read_text("utf-8")) | {"tasks": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_the_schema_in_the_package_is_not_stale() -> None:
    written = (Path(record.__file__).parent / "record.schema.json").read_text("utf-8")
    assert json.loads(written) == record.schema(), "run: python scripts/write_schema.py"


def test_altered_items_are_refused(tmp_path: Path, items: dict[str, record.Items]) -> None:
    path = record.write(make(items), items, tmp_path)
    other = {task: record.Items(one.doc_ids, one.counts + 1) for task, one in items.items()}
    (tmp_path / "tiny.items.jsonl.zst").write_bytes(record.pack(other, dict.fromkeys(other, COLUMNS)))
    with pytest.raises(RecordError, match="not the file that tiny"):
        record.read_items(path)
    (tmp_path / "tiny.items.jsonl.zst").unlink()
    with pytest.raises(RecordError, match="is missing"):
        record.read_items(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"tasks": {}}, "tasks"),
        ({"name": "../escape"}, "name"),
    ],
)
def test_a_malformed_record_is_refused_with_its_place(
    tmp_path: Path, items: dict[str, record.Items], change: dict[str, object], message: str
) -> None:
    path = record.write(make(items), items, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(RecordError, match=message):
        record.read(path)


def test_scores_below_zero_and_what_is_no_number_are_refused() -> None:
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            record.Metric(value=value, stderr=0.0, n=1)
    with pytest.raises(ValidationError):
        record.Metric(value=0.5, stderr=float("inf"), n=1)


def test_a_full_disk_leaves_the_old_record(
    tmp_path: Path, items: dict[str, record.Items], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record.write(make(items), items, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        record.write(make(items), items, path.parent)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(RecordError):
        record.write(make(items), {}, tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("google/gemma-3-270m", "google-gemma-3-270m"), (".hidden", "hidden"), ("ü", "unnamed")],
)
def test_file_names(name: str, expected: str) -> None:
    assert record.file_name(name) == expected
