"""`midalign leaderboard missing`, and the option of `midalign eval` that its commands use."""

import json
import shlex
from functools import partial
from pathlib import Path

import pytest
from synthetic_records import sha, share, write
from typer.testing import CliRunner

from midalign import harness
from midalign.cli.app import app
from midalign.errors import TaskError
from midalign.evaluate import run
from midalign.leaderboard import missing as missing_cells

ALL = {code: share(4, 2) for code in ("de", "en", "es", "fr", "hi", "id", "ja", "ru", "tr", "zh")}


write_current = partial(write, version=2.0)
"""The tasks of the mini benchmark have version 2."""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_current(tmp_path, "base", "base", ALL)
    write_current(tmp_path, "whole", "baseline", ALL, seed=1)
    write_current(tmp_path, "part", "aligned", {code: ALL[code] for code in ("de", "en")}, seed=1)
    write_current(tmp_path / "other", "other", "base", ALL, base="org/other", limit=4)
    return tmp_path


def missing(results: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["leaderboard", "missing", "--results", str(results), *options])
    assert result.exit_code == 0, result.output
    return result.output


def commands(output: str, name: str = "eval") -> list[str]:
    return [line for line in output.splitlines() if line.startswith(f"midalign {name}")]


def settings_of(command: str, monkeypatch: pytest.MonkeyPatch) -> run.EvalSettings:
    """Return what a printed command would evaluate."""
    asked: list[run.EvalSettings] = []
    monkeypatch.setattr(run, "evaluate_models", lambda settings, report: asked.append(settings) or [])
    words = shlex.split(command)
    assert words[0] == "midalign"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    return asked[0]


def test_long_names_do_not_truncate_commands(tmp_path: Path) -> None:
    """A truncated command would lose a closing quote, and the rest of the output would become code."""
    name = "A" * 11_000 + " "
    write_current(tmp_path, "base", "base", ALL, base=name)
    write_current(tmp_path, "part", "aligned", {code: ALL[code] for code in ("de", "en")}, seed=1, base=name)
    (command,) = commands(missing(tmp_path))
    assert name in shlex.split(command)


def test_a_partial_record_is_listed_with_a_command_for_the_whole_group(results, monkeypatch):
    output = missing(results)
    assert "8 of 10" in output
    (command,) = (line for line in output.splitlines() if line.startswith("midalign eval"))
    settings = settings_of(command, monkeypatch)
    assert settings.adapters == (Path("part"),)
    assert settings.adapters_only
    assert settings.tasks == ("midalign_mini_slot",)
    assert (settings.base, settings.split, settings.limit) == ("mini", "test", None)


def test_languages_of_the_board_are_named_where_it_has_not_all(tmp_path, monkeypatch):
    write_current(tmp_path, "one", "base", {code: ALL[code] for code in ("de", "hi")})
    write_current(tmp_path, "two", "baseline", {"de": ALL["de"]}, seed=1)
    (command,) = (line for line in missing(tmp_path).splitlines() if line.startswith("midalign eval"))
    assert "--languages de,hi" in command
    assert settings_of(command, monkeypatch).tasks == ("midalign_mini_slot_de", "midalign_mini_slot_hi")


def test_a_complete_board_misses_nothing(tmp_path):
    write_current(tmp_path, "base", "base", ALL)
    write_current(tmp_path, "whole", "baseline", ALL, seed=1)
    assert "Nothing is missing" in missing(tmp_path)
    assert "Nothing is missing" in missing(tmp_path, "--tasks", "midalign_slot")


def test_a_base_under_two_names_is_one_model(tmp_path):
    write_current(tmp_path, "base", "base", ALL)
    write_current(tmp_path, "whole", "baseline", ALL, seed=1)
    path = write_current(tmp_path, "local", "base", {"de": ALL["de"]}, limit=2)
    content = json.loads(path.read_text())
    content["base"]["name"] = "/models/mini"
    path.write_text(json.dumps(content))
    output = missing(tmp_path)
    assert "/models/mini" not in output
    assert output.count("midalign eval") == 1


def test_groups_are_restricted_to_languages():
    assert harness.tasks_in_languages(["midalign_slot"], ["sw", "cy"]) == [
        "midalign_slot_sw",
        "midalign_slot_cy",
    ]
    assert harness.tasks_in_languages(["midalign_slot"], []) == ["midalign_slot"]
    both = harness.tasks_in_languages(["midalign_slot_en", "midalign_mini_slot"], ["zh_cn", "en"])
    assert both == ["midalign_slot_en", "midalign_mini_slot_zh", "midalign_mini_slot_en"]
    directions = harness.tasks_in_languages(["midalign_mt_wmt23"], ["de", "en"])
    assert directions == ["midalign_mt_wmt23_de-en", "midalign_mt_wmt23_en-de"]
    with pytest.raises(TaskError, match="midalign_mini_slot has no language 'sw'"):
        harness.tasks_in_languages(["midalign_slot", "midalign_mini_slot"], ["sw"])


def test_a_new_task_version_names_the_records_and_one_command_per_sample(tmp_path, monkeypatch):
    assert harness.metadata("midalign_mini_slot_de")["version"] == 2
    write(tmp_path, "base", "base", ALL)
    write(tmp_path, "old", "baseline", ALL, seed=1)
    write(tmp_path, "older", "aligned", {"de": ALL["de"], "hi": ALL["hi"]}, seed=1, limit=4)
    write_current(tmp_path, "current", "aligned", ALL, seed=2)
    output = missing(tmp_path)
    table = output.partition("Records of an earlier task version")[2]
    rows = {line.split()[0]: line for line in table.splitlines() if ".json" in line}
    assert list(rows) == ["base.json", "old.json", "older.json"]
    assert rows["older.json"].split()[-4:] == ["2", "1", "→", "2"]
    full, sample = (settings_of(command, monkeypatch) for command in commands(table))
    assert (full.adapters, full.adapters_only, full.limit) == ((Path("old"),), False, None)
    assert full.tasks == ("midalign_mini_slot",)
    assert (sample.adapters, sample.adapters_only, sample.limit) == ((Path("older"),), True, 4)
    assert sample.tasks == ("midalign_mini_slot_de", "midalign_mini_slot_hi")
    assert full.output != sample.output
    assert "earlier task version" not in missing(tmp_path, "--tasks", "midalign_slot")


def test_a_record_that_was_scored_again_is_not_listed(tmp_path):
    write(tmp_path, "base", "base", ALL)
    write_current(tmp_path / "again", "base", "base", ALL)
    assert "earlier task version" not in missing(tmp_path)


def test_outputs_of_an_earlier_task_version_are_scored_again_from_their_file(tmp_path):
    external = {"engine": "external", "base": "api-outputs", "recipe": None}
    write(tmp_path, "api", "base", {code: ALL[code] for code in ("de", "hi")}, **external)
    output = missing(tmp_path)
    assert commands(output) == []
    words = [shlex.split(line) for line in commands(output, "score")]
    assert [line[line.index("--task") + 1] for line in words] == [
        "midalign_mini_slot_de",
        "midalign_mini_slot_hi",
    ]
    assert all(line[line.index("--outputs") + 1] == "api-outputs.jsonl" for line in words)


def test_scores_of_a_replaced_base_have_no_command(tmp_path, monkeypatch):
    write(tmp_path, "base", "base", ALL)
    monkeypatch.setitem(missing_cells.bases.EARLIER_VERSIONS, sha("mini"), "an earlier mini")
    output = missing(tmp_path)
    assert "1 → 2, an earlier bundled base" in output
    assert commands(output) == []


def test_a_build_says_which_task_versions_are_outdated(tmp_path):
    def build(*options: str) -> str:
        command = ["leaderboard", "build", "--results", str(tmp_path / "results"), *options]
        result = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "board")])
        assert result.exit_code == 0, result.output
        return result.output

    write_current(tmp_path / "results", "new", "base", ALL)
    assert "earlier task version" not in build()
    write(tmp_path / "results", "old", "baseline", ALL, seed=1)
    assert "1 record is of an earlier task version (midalign_mini_slot 1 → 2)" in build()
