"""The generated reference has every option and every key, each once."""

import json
import re
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from midalign.cli.app import app
from midalign.train.recipe import Recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/reference_pages.py."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: make setup-dev")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "reference_pages", raising=False)
    import reference_pages

    return reference_pages


def rows(page: str) -> Iterator[list[str]]:
    """Yield the cells of all rows of a page's tables."""
    for line in page.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


COMMON = {"--help", "--version"}
"""Options of every command, which the page does not repeat."""


def section(page: str, heading: str) -> str:
    return page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("command", ["eval", "train", "sweep", "analyze", "merge", "data overlap", "score"])
def test_page_of_commands_has_every_option_of_the_help(reference: ModuleType, command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", shown.output)) - COMMON
    cells = [row[0] for row in rows(section(reference.commands_page(), f"midalign {command}"))]
    named = {option for cell in cells for option in re.findall(r"--[a-z][a-z-]+", cell)}
    assert named
    assert named <= options
    first_of_line = set(re.findall(r"^\W*(--[a-z][a-z-]+)", shown.output, flags=re.M)) - COMMON
    assert first_of_line <= named


def schema_keys(schema: dict[str, Any], part: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the keys of a JSON Schema, those below others with a dot."""
    for name, value in part["properties"].items():
        candidates = [value, *value.get("anyOf", [])]
        below = next(
            (schema["$defs"][one["$ref"].rpartition("/")[2]] for one in candidates if "$ref" in one), None
        )
        if below is None:
            yield f"{prefix}{name}"
        else:
            yield from schema_keys(schema, below, f"{prefix}{name}.")


def test_page_of_recipe_keys_has_every_key_once_with_its_meaning(reference: ModuleType) -> None:
    schema = Recipe.model_json_schema()
    found = [row[0].strip("`") for row in rows(reference.recipe_page())]
    assert sorted(found) == sorted(schema_keys(schema, schema))
    assert [row[0] for row in rows(reference.recipe_page()) if not row[4]] == []


def test_eight_common_keys_come_first(reference: ModuleType) -> None:
    found = [row[0].strip("`") for row in rows(section(reference.recipe_page(), "Common keys"))]
    assert found == ["name", "base", "task", "supervised", "aligned", "align.pairs", "seeds", "updates"]


def test_defaults_are_those_of_the_presets(reference: ModuleType) -> None:
    cells = {row[0].strip("`"): row[2:4] for row in rows(reference.recipe_page())}
    assert cells["align.weight"] == ["`0.15`", "`1.0`"]  # recipes/presets/default.yaml, paper.yaml
    assert cells["align.ratio"] == ["`[1, 1]`", "`[1, 1]`"]
    assert cells["lora.r"] == ["`16`", "`8`"]
    assert cells["name"] == ["required", "required"]
    assert cells["monitor.every"] == ["required in `monitor`", "required in `monitor`"]


def test_page_of_the_record_has_every_key_of_the_schema(reference: ModuleType) -> None:
    schema = json.loads((files("midalign") / "record.schema.json").read_text("utf-8"))
    page = reference.record_page()
    parts = {
        "Record": schema,
        **{name: part for name, part in schema["$defs"].items() if "properties" in part},
    }
    for name, part in parts.items():
        found = [row[0].strip("`") for row in rows(section(page, name))]
        assert found == list(part["properties"]), name


def test_missing_docstring_of_a_key_is_named(reference: ModuleType) -> None:
    class Undocumented(BaseModel):
        key: int

    with pytest.raises(ValueError, match=r"Undocumented\.key has no docstring"):
        list(reference._keys(Undocumented))


def test_help_text_keeps_its_lines_and_escapes_markup(reference: ModuleType) -> None:
    text = "Score a <MODEL> in *full*.\n\n\b\nmidalign eval --base mini\n  --tasks midalign_slot"
    paragraph, lines = reference.help_text(text).split("\n\n")
    assert paragraph == r"Score a \<MODEL\> in \*full\*."
    assert lines == "```text\nmidalign eval --base mini\n  --tasks midalign_slot\n```\n"
