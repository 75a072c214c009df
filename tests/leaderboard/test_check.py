"""`midalign leaderboard check`: what it finds in records, one test per subject."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from typer.testing import CliRunner

from midalign.cli.app import app
from midalign.evaluate.settings import EvalSettings, EvaluatedModel
from midalign.leaderboard.check import RecordCheck, check_records, record_files
from midalign.metrics import bootstrap, slot
from midalign.record import read_items

PUBLISHED = Path(__file__).parents[2] / "leaderboard" / "results"
NAME = "mini-aligned-seed1"
TASK = "midalign_mini_slot_de"
QUOTING = {
    **{"training": "p", "test": "mini", "split": "test", "language": "de"},
    **{"texts": 300, "exact": 1, "short": 0, "near": 0},
    "examples": [{"item": 3, "text": "a text", "training": "a text", "contained": 1.0}],
}
"""An overlap with an example, as no record has it."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A published record of the mini base, which its tests alter."""
    for file in PUBLISHED.glob(f"{NAME}.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / f"{NAME}.json"


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> RecordCheck:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    (check,) = check_records([path])
    return check


def with_items(path: Path, change: Callable[[dict[str, Any]], object]) -> RecordCheck:
    """Alter the counts per item of TASK, and the sums and digest that follow from them, but no rate."""
    items = path.with_name(f"{NAME}.items.jsonl.zst")
    lines = [
        json.loads(line) for line in zstandard.ZstdDecompressor().decompress(items.read_bytes()).splitlines()
    ]
    line = next(line for line in lines if line["task"] == TASK)
    change(line)
    packed = zstandard.ZstdCompressor().compress("".join(json.dumps(line) + "\n" for line in lines).encode())
    items.write_bytes(packed)

    def follow(record: dict[str, Any]) -> None:
        record["items"]["sha256"] = hashlib.sha256(packed).hexdigest()
        record["tasks"][TASK]["counts"] = {name: sum(column) for name, column in line["counts"].items()}

    return edited(path, follow)


def failures(check: RecordCheck, subject: str) -> str:
    assert {finding.subject for finding in check.findings if finding.state == "fail"} == {subject}
    return "\n".join(finding.text for finding in check.findings if finding.state == "fail")


def notes(check: RecordCheck, subject: str) -> str:
    assert not check.failed
    return "\n".join(f.text for f in check.findings if (f.subject, f.state) == (subject, "note"))


def test_published_records_pass():
    """Those of the present task version without a note, since the mini data are here."""
    checks = check_records(record_files([PUBLISHED]))
    assert [check.file for check in checks if check.failed] == []
    for check in checks:
        if re.search(r"-[0-9a-f]{8}$", check.file.parent.name):
            continue  # submitted by somebody else
        if check.record and check.record.schema_version == 2:
            assert {finding.state for finding in check.findings} == {"ok"}
        else:
            assert "read as 2" in notes(check, "schema")
            assert "Task version 1, now 2" in notes(check, "tasks")


@pytest.mark.parametrize(
    ("change", "subject", "message"),
    [
        (lambda r: r.update(schema_version=3), "schema", "schema_version 3.*update it"),
        (lambda r: r.update(name="other"), "schema", "name is other"),
        (
            lambda r: r["base"].update(name="/home/alice/model"),
            "schema",
            "/home/alice/model is a path",
        ),
        (
            lambda r: r["adapter"]["manifest"].update(task="~/tasks"),
            "schema",
            "task: ~/tasks is a path",
        ),
        (lambda r: r["adapter"]["manifest"].update(pairs="\\\\host\\x"), "schema", "manifest.pairs"),
        (lambda r: r["items"].update(file="../x.items.jsonl.zst"), "schema", "not a file next to it"),
        (lambda r: r["tasks"][TASK]["metrics"]["slot_f1"].update(value=0.9), "figures", "says slot_f1 0.9"),
        (
            lambda r: r["tasks"][TASK]["metrics"]["slot_f1"].update(stderr=0.001),
            "figures",
            "says stderr 0.001",
        ),
        (lambda r: r["tasks"][TASK].update(version=3.0), "tasks", "version 3, this midalign knows 2"),
        (lambda r: r["tasks"][TASK].update(family="slot_spans"), "figures", "counts lack"),
        (lambda r: r["sample"].update(split="train"), "tasks", "Unknown split 'train'"),
        (lambda r: r["tasks"][TASK].update(data_digest="0" * 64), "data", "has data 000000000000"),
        (lambda r: r["sample"].update(limit=20), "data", "300 items that are not its sample"),
        (lambda r: r["tasks"][TASK].update(prompt_digest="0" * 64), "prompts", "rendered here"),
        (lambda r: r["adapter"].update(manifest=None), "training", "--trained-on"),
        (
            lambda r: r.update(overlap={"found": [QUOTING], "unchecked": []}),
            "overlap",
            "must not quote test texts.*mini test, de",
        ),
        (lambda r: r["roles"].update(supervised=["en"]), "training", "supervised"),
        (lambda r: r.update(seed=7), "training", "seed 7, the manifest says 1"),
        (lambda r: r["engine"].update(name="magic"), "engine", "Unknown engine 'magic'"),
        (lambda r: r["engine"].update(dtype="int1"), "engine", "Unknown dtype 'int1'"),
    ],
)
def test_one_altered_value_fails_one_subject(path, change, subject, message):
    assert re.search(message, failures(edited(path, change), subject))


def test_task_names_of_a_record_do_not_read_files(path, monkeypatch):
    """A group of a user's own data is a path, which a stranger's record must not choose."""
    opened = []
    read = Path.read_bytes

    def spy(file: Path) -> bytes:
        opened.append(str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", spy)
    name = f"slot:{path.parent}/secret_de"
    with_items(path, lambda line: line.update(task=name))
    check = edited(path, lambda r: r["tasks"].update({name: r["tasks"].pop(TASK)}))
    assert "figures" in {finding.subject for finding in check.findings}
    assert "languages" in {finding.subject for finding in check.findings}
    assert not [file for file in opened if "secret" in file]


def test_items_of_another_sample_fail(path):
    """A document that the model answered badly was exchanged for one that the split does not have."""
    check = with_items(path, lambda line: line["doc_ids"].__setitem__(0, 12345))
    assert "not its sample" in failures(check, "data")


def test_gold_counts_are_those_of_the_data(path):
    """With less gold, the same answers score higher. Rates and sums follow from the altered counts."""

    def lower(line: dict[str, Any]) -> None:
        place = next(i for i, gold in enumerate(line["counts"]["slot_gold"]) if gold > 2)
        for name in ("slot_gold", "ref_gold"):
            line["counts"][name][place] -= 1

    # The rates are still those of the unaltered counts. A careful forger adapts them, too.
    assert "says slot_f1" in failures(with_items(path, lower), "figures")
    counts = read_items(path)[TASK].counts

    def adapt(record: dict[str, Any]) -> None:
        for name in record["tasks"][TASK]["metrics"]:
            metric = slot.METRICS[name]
            record["tasks"][TASK]["metrics"][name].update(
                value=float(metric(counts.sum(0))), stderr=bootstrap.stderr(counts, metric)
            )

    assert "slot_gold is not that of the data" in failures(edited(path, adapt), "data")


def test_missing_languages_are_noted(path):
    def drop(record: dict[str, Any]) -> None:
        del record["tasks"]["midalign_mini_slot_fr"]

    content = json.loads(path.read_text())
    drop(content)
    items = path.with_name(f"{NAME}.items.jsonl.zst")
    kept = [
        line
        for line in zstandard.ZstdDecompressor().decompress(items.read_bytes()).splitlines(keepends=True)
        if b'"midalign_mini_slot_fr"' not in line
    ]
    packed = zstandard.ZstdCompressor().compress(b"".join(kept))
    items.write_bytes(packed)
    content["items"]["sha256"] = hashlib.sha256(packed).hexdigest()
    path.write_text(json.dumps(content))
    (check,) = check_records([path])
    assert notes(check, "languages") == "Partial: 9 of 10 tasks of midalign_mini_slot"


def test_a_declaration_in_words_suffices_without_a_manifest(path):
    def elsewhere(record: dict[str, Any]) -> None:
        record["adapter"]["manifest"] = None
        record["trained_on"] = "MASSIVE train, en es"

    assert "declared as: MASSIVE train, en es" in notes(edited(path, elsewhere), "training")


def test_only_adapters_without_a_manifest_carry_the_declaration():
    settings = EvalSettings(base="mini", tasks=(), output=Path(), trained_on="MASSIVE train")
    base = EvaluatedModel("mini", None, None, None)
    adapter = EvaluatedModel("a", Path("a"), "0" * 64, None)
    assert (base.declared_training(settings), adapter.declared_training(settings)) == ("", "MASSIVE train")


def test_two_records_of_one_model_fail(path):
    twin = path.with_name("twin.json")
    twin.write_text(path.read_text().replace(f'"name": "{NAME}",\n "created"', '"name": "twin",\n "created"'))
    first, second = check_records([path, twin])
    assert not first.failed
    assert f"{path} has the same model, task and sample" in failures(second, "unique")


def test_equal_counts_of_two_models_are_noted(path):
    twin = path.with_name("twin.json")
    content = json.loads(path.read_text())
    content["name"], content["adapter"]["digest"] = "twin", "0" * 64
    twin.write_text(json.dumps(content))
    _, second = check_records([path, twin])
    assert "The same counts per item as" in notes(second, "unique")


def test_the_command_prints_one_table_and_ends_with_status_1(path):
    good = CliRunner().invoke(app, ["leaderboard", "check", str(path), "--no-prompts"])
    assert good.exit_code == 0, good.output
    assert "1 records: 1 pass, 0 fail" in good.output
    path.write_text(path.read_text()[:-40])
    bad = CliRunner().invoke(app, ["leaderboard", "check", str(path.parent)])
    assert bad.exit_code == 1
    assert "FAIL  schema" in bad.output
    assert "is not a record of schema version 1 or 2" in bad.output
