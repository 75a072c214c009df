"""`midalign leaderboard missing`, and the option of `midalign eval` that its commands use."""

import json
import shlex
from pathlib import Path

import pytest
from synthetic_records import share, write
from typer.testing import CliRunner

from midalign import harness
from midalign.cli.app import app
from midalign.errors import TaskError
from midalign.evaluate import run

ALL = {code: share(4, 2) for code in ("de", "en", "es", "fr", "hi", "id", "ja", "ru", "tr", "zh")}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write(tmp_path, "base", "base", ALL)
    write(tmp_path, "whole", "baseline", ALL, seed=1)
    write(tmp_path, "part", "aligned", {code: ALL[code] for code in ("de", "en")}, seed=1)
    write(tmp_path / "other", "other", "base", ALL, base="org/other", limit=4)
    return tmp_path


def missing(results: Path, *options: str) -> str:
    result = CliRunner().invoke(app, ["leaderboard", "missing", "--results", str(results), *options])
    assert result.exit_code == 0, result.output
    return result.output


def settings_of(command: str, monkeypatch: pytest.MonkeyPatch) -> run.EvalSettings:
    """Return what a printed command would evaluate."""
    asked: list[run.EvalSettings] = []
    monkeypatch.setattr(run, "evaluate_models", lambda settings, report: asked.append(settings) or [])
    words = shlex.split(command)
    assert words[0] == "midalign"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, result.output
    return asked[0]


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
    write(tmp_path, "one", "base", {code: ALL[code] for code in ("de", "hi")})
    write(tmp_path, "two", "baseline", {"de": ALL["de"]}, seed=1)
    (command,) = (line for line in missing(tmp_path).splitlines() if line.startswith("midalign eval"))
    assert "--languages de,hi" in command
    assert settings_of(command, monkeypatch).tasks == ("midalign_mini_slot_de", "midalign_mini_slot_hi")


def test_a_complete_board_misses_nothing(tmp_path):
    write(tmp_path, "base", "base", ALL)
    write(tmp_path, "whole", "baseline", ALL, seed=1)
    assert "Nothing is missing" in missing(tmp_path)
    assert "Nothing is missing" in missing(tmp_path, "--tasks", "midalign_slot")


def test_a_base_under_two_names_is_one_model(tmp_path):
    write(tmp_path, "base", "base", ALL)
    write(tmp_path, "whole", "baseline", ALL, seed=1)
    path = write(tmp_path, "local", "base", {"de": ALL["de"]}, limit=2)
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
