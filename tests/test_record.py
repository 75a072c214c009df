"""The record: what is written is what is read, the schema is current, and the files stay small."""

import hashlib
import json
import os
import re
import stat
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from pydantic import ValidationError

import midalign
from midalign import record
from midalign.errors import RecordError

SCHEMA = Path(midalign.__file__).parent / "record.schema.json"

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
    before = os.umask(0o027)
    try:
        path = record.write_record(entry, items, tmp_path / "results")
    finally:
        os.umask(before)
    assert path == tmp_path / "results" / "tiny.json"
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o640}
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.items.jsonl.zst", "tiny.json"]
    back = record.read_record(path)
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
    path = record.write_record(
        entry.model_copy(update={"tasks": {**entry.tasks, german: other}}), mixed, tmp_path
    )
    read = record.read_items(path)
    assert np.array_equal(read[german].counts, mixed[german].counts)
    assert np.array_equal(read[english].counts, items[english].counts)


def test_items_of_all_of_massive_are_small_enough_to_commit() -> None:
    rng = np.random.default_rng(0)
    items = {f"midalign_slot_{i}": synthetic(rng, 2974) for i in range(52)}
    assert sum(len(one.doc_ids) for one in items.values()) == 154_648
    assert len(record.pack_items(items, dict.fromkeys(items, COLUMNS))) < 1_000_000


def test_a_record_is_valid_json_schema(tmp_path: Path, items: dict[str, record.Items]) -> None:
    path = record.write_record(make(items), items, tmp_path)
    schema = json.loads(SCHEMA.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text("utf-8")), schema)
    broken = json.loads(path.read_text("utf-8")) | {"tasks": {}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_the_schema_in_the_package_is_not_stale() -> None:
    written = SCHEMA.read_text("utf-8")
    assert json.loads(written) == record.record_schema(), "run: python scripts/write_schema.py"


def test_altered_items_are_refused(tmp_path: Path, items: dict[str, record.Items]) -> None:
    path = record.write_record(make(items), items, tmp_path)
    other = {task: record.Items(one.doc_ids, one.counts + 1) for task, one in items.items()}
    (tmp_path / "tiny.items.jsonl.zst").write_bytes(record.pack_items(other, dict.fromkeys(other, COLUMNS)))
    with pytest.raises(RecordError, match="not the file that tiny"):
        record.read_items(path)
    (tmp_path / "tiny.items.jsonl.zst").unlink()
    with pytest.raises(RecordError, match="is missing"):
        record.read_items(path)


def test_data_after_the_compressed_items_are_refused(tmp_path: Path, items: dict[str, record.Items]) -> None:
    """They would be published unread."""
    path = record.write_record(make(items), items, tmp_path)
    file = tmp_path / "tiny.items.jsonl.zst"
    before, after = file.read_bytes(), file.read_bytes() + b"hidden"
    file.write_bytes(after)
    digests = [hashlib.sha256(content).hexdigest() for content in (before, after)]
    path.write_text(path.read_text().replace(*digests))
    with pytest.raises(RecordError, match="is not zstd-compressed text"):
        record.read_items(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "schema_version"),
        ({"surprise": 1}, "surprise"),
        ({"tasks": {}}, "tasks"),
        ({"name": "../escape"}, "name"),
    ],
)
def test_a_malformed_record_is_refused_with_its_place(
    tmp_path: Path, items: dict[str, record.Items], change: dict[str, object], message: str
) -> None:
    path = record.write_record(make(items), items, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | change), "utf-8")
    with pytest.raises(RecordError, match=message):
        record.read_record(path)


def test_scores_below_zero_and_what_is_no_number_are_refused() -> None:
    for value in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValidationError):
            record.Metric(value=value, stderr=0.0, n=1)
    with pytest.raises(ValidationError):
        record.Metric(value=0.5, stderr=float("inf"), n=1)


def test_a_full_disk_leaves_the_old_record(
    tmp_path: Path, items: dict[str, record.Items], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record.write_record(make(items), items, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        record.write_record(make(items), items, path.parent)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(RecordError):
        record.write_record(make(items), {}, tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("google/gemma-3-270m", "google-gemma-3-270m"),
        (".hidden", "hidden"),
        ("?", "unnamed"),
        ("languages-aligned=de+fr-seed1", "languages-aligned=de+fr-seed1"),
    ],
)
def test_file_names(name: str, expected: str) -> None:
    assert record.record_file_name(name) == expected


def test_names_outside_ascii_have_files_of_their_own() -> None:
    names = ["ü", "ö", "ответы", "выходы", "modèle", "modéle", "modele", "模型", "模式"]
    files = [record.record_file_name(name) for name in names]
    assert len(set(files)) == len(names)
    for file in files:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@=+-]*", file)
    # A name is the same on file systems that decompose its letters.
    assert record.record_file_name(unicodedata.normalize("NFD", "modèle")) == record.record_file_name(
        "modèle"
    )


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "limit": ({"sample": {"split": "test", "limit": 8, "seed": 0}}, "limit None, now 8"),
    "split": ({"sample": {"split": "validation", "limit": None, "seed": 0}}, "split test, now validation"),
    "engine": ({"engine": {"name": "vllm", "dtype": "float32", "device": "cpu"}}, "engine hf, now vllm"),
    "dtype": (
        {"engine": {"name": "hf", "dtype": "bfloat16", "device": "cpu"}},
        "dtype float32, now bfloat16",
    ),
    "batches": (
        {"engine": {"name": "hf", "dtype": "float32", "device": "cpu", "batch_invariant": True}},
        "batch-invariant None, now True",
    ),
    "shots": ({"decoding": {"num_fewshot": 3}}, "num_fewshot None, now 3"),
    "template": ({"decoding": {"apply_chat_template": True}}, "apply_chat_template None, now True"),
    "instruction": (
        {"decoding": {"system_instruction": "Be brief."}},
        "system_instruction None, now Be brief",
    ),
    "thinking": ({"decoding": {"enable_thinking": False}}, "enable_thinking None, now False"),
    "regime": ({"decoding": {"regime": "constrained"}}, "regime free, now constrained"),
    "base": ({"base": {"name": "tiny", "digest": "3" * 64}}, "base 222222222222, now 333333333333"),
    "adapter": (
        {"adapter": {"name": "tiny", "digest": "4" * 64, "manifest": None}},
        "adapter None, now 444444444444",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_under_other_conditions_is_not_replaced(
    tmp_path: Path, items: dict[str, record.Items], change: str
) -> None:
    path = record.write_record(make(items), items, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    fields, message = CHANGES[change]
    other = record.Record.model_validate({**make(items).model_dump(), **fields})
    with pytest.raises(RecordError, match=message) as error:
        record.write_record(other, items, tmp_path)
    assert str(path) in str(error.value)
    assert "--output OTHER" in str(error.value)
    assert f"rm '{path}'" in str(error.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_record_of_another_gpu_is_not_replaced(tmp_path: Path, items: dict[str, record.Items]) -> None:
    """Older records do not name their GPU, and any result may replace these."""

    def on(gpu: str | None) -> record.Record:
        engine = record.Engine(name="vllm", dtype="bfloat16", device="cuda", gpu=gpu)
        return make(items).model_copy(update={"engine": engine})

    for gpu in (None, "NVIDIA A100-SXM4-80GB"):
        record.write_record(on(gpu), items, tmp_path)
    with pytest.raises(RecordError, match="GPU NVIDIA A100-SXM4-80GB, now NVIDIA L4"):
        record.write_record(on("NVIDIA L4"), items, tmp_path)


def changed(entry: record.Record, **fields: Any) -> record.Record:
    """The record with other fields in each of its tasks."""
    tasks = {name: task.model_copy(update=fields) for name, task in entry.tasks.items()}
    return entry.model_copy(update={"tasks": tasks})


COMET = {"name": "mine", "version": "2.2.7", "value": 0.5, "stderr": 0.1, "n": 50}


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({}, {"version": 2.0}, "version of midalign_slot_en 1.0, now 2.0"),
        ({}, {"data_digest": "5" * 64}, "data of midalign_slot_en 000000000000, now 555555555555"),
        (
            {"max_gen_toks": 128},
            {"max_gen_toks": 192},
            "tokens per answer of midalign_slot_en 128, now 192",
        ),
        ({}, {"prompt_digest": "5" * 64}, "prompts of midalign_slot_en 111111111111, now 555555555555"),
        (
            {"comet": record.Comet(digest="6" * 64, **COMET)},
            {},
            "COMET of midalign_slot_en 666666666666 2.2.7, now None",
        ),
        (
            {"comet": record.Comet(digest="6" * 64, **COMET)},
            {"comet": record.Comet(digest="7" * 64, **COMET)},
            "COMET of midalign_slot_en 666666666666 2.2.7, now 777777777777",
        ),
    ],
)
def test_a_task_under_other_conditions_is_not_replaced(
    tmp_path: Path, items: dict[str, record.Items], before: dict[str, Any], now: dict[str, Any], message: str
) -> None:
    record.write_record(changed(make(items), **before), items, tmp_path)
    with pytest.raises(RecordError, match=message):
        record.write_record(changed(make(items), **now), items, tmp_path)


def test_a_newer_result_of_more_tasks_replaces_a_record(
    tmp_path: Path, items: dict[str, record.Items]
) -> None:
    english = {"midalign_slot_en": items["midalign_slot_en"]}
    path = record.write_record(make(english), english, tmp_path)
    newer = make(items).model_copy(
        update={
            "created": datetime(2026, 11, 24, tzinfo=UTC),
            "packages": {"torch": "2.14.0"},
            "base": record.Base(name="tiny", digest="2" * 64, tokenizer="8" * 64, note="said later"),
        }
    )
    record.write_record(newer, items, tmp_path)
    assert list(record.read_record(path).tasks) == list(items)
    with pytest.raises(RecordError, match="a record of other tasks"):
        record.write_record(make(english), english, tmp_path)
    with pytest.raises(RecordError, match="is newer than what would replace it"):
        record.write_record(make(items), items, tmp_path)
    other = newer.model_copy(update={"base": newer.base.model_copy(update={"tokenizer": "9" * 64})})
    with pytest.raises(RecordError, match="generation settings 888888888888, now 999999999999"):
        record.write_record(other, items, tmp_path)


def test_retrieval_is_not_lost(tmp_path: Path, items: dict[str, record.Items]) -> None:
    measured = record.Retrieval(layer=2, candidates=3, pooling="mean", accuracy={"de": 0.5})
    record.write_record(make(items).model_copy(update={"retrieval": measured}), items, tmp_path)
    with pytest.raises(RecordError, match="retrieval measured, now not"):
        record.write_record(make(items), items, tmp_path)


def test_a_shard_of_another_run_is_not_replaced(tmp_path: Path, items: dict[str, record.Items]) -> None:
    """A run of more tasks has other shards, with other items."""
    shards = [record.Shard(number=1, of=2, run=digit * 64) for digit in "ab"]
    for entry in (make(items).model_copy(update={"shard": shards[0]}),) * 2:
        record.write_record(entry, items, tmp_path)
    with pytest.raises(RecordError, match="run of the shards aaaaaaaaaaaa, now bbbbbbbbbbbb"):
        record.write_record(make(items).model_copy(update={"shard": shards[1]}), items, tmp_path)


def test_what_is_no_record_is_not_replaced(tmp_path: Path, items: dict[str, record.Items]) -> None:
    (tmp_path / "tiny.json").write_text("notes")
    with pytest.raises(RecordError, match=r"tiny\.json is not a record"):
        record.write_record(make(items), items, tmp_path)
    assert (tmp_path / "tiny.json").read_text() == "notes"
