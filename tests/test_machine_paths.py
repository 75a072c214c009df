"""Paths of the evaluating machine are found wherever a record may have them."""

from pathlib import Path
from typing import Any

import pytest

from midalign.record import Record, read_record
from midalign.record.machine_paths import machine_paths

RESULTS = Path(__file__).parents[1] / "leaderboard" / "results"


def changed(field: str, value: str) -> Record:
    """Return a committed record with another value of one field."""
    content = read_record(RESULTS / "mini-aligned-seed1.json").model_dump(mode="json")
    *folders, key = field.split(".")
    place: Any = content
    for folder in folders:
        place = place[folder]
    source = {"kind": "task", "source": value, "languages": ["en"], "digest": None}
    place[key] = [source] if key == "trained_on" else value
    return Record.model_validate(content)


@pytest.mark.parametrize(
    "field", ["base.name", *(f"adapter.manifest.{key}" for key in ("base", "task", "pairs", "trained_on"))]
)
@pytest.mark.parametrize(
    "path", ["/home/alice/x", "~/x", "\\\\server\\x", "C:\\x", "lm_eval:/home/alice/x.yaml"]
)
def test_paths_of_the_machine_are_found_in_each_field(field, path):
    assert machine_paths(changed(field, path)) == [f"{field}: {path}"]


@pytest.mark.parametrize("name", ["google/gemma-3-270m", "mini", "lm_eval:hellaswag", "own:pairs"])
def test_names_are_no_paths(name):
    assert machine_paths(changed("base.name", name)) == []


def test_committed_records_have_no_paths():
    paths = sorted(RESULTS.rglob("*.json"))
    assert len(paths) > 10
    assert [path for path in paths if machine_paths(read_record(path))] == []
