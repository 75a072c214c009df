"""`midalign data languages`: the whole table on a screen, or as JSON."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from midalign.languages import languages
from midalign.tasks import tasks_dir


def listed(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "midalign", "data", "languages", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_every_language_is_on_a_screen_of_110_characters_with_the_class_and_its_source() -> None:
    lines = listed().stdout.splitlines()
    assert max(map(len, lines)) <= 110
    assert {line.split()[0] for line in lines if line[:1].isalpha()} >= set(languages())
    (german,) = [line for line in lines if line.startswith("de ")]
    for shown in ("German", "Latn ltr", "Germanic", "high 5", "massive", "yes"):
        assert shown in german
    (luo,) = [line for line in lines if line.startswith("luo ")]
    assert "low -" in luo
    note = " ".join(" ".join(lines).split())
    assert f"{len(languages())} languages. class: Joshi et al. 2020" in note
    assert "lang2tax.txt" in note


def test_json_has_every_column() -> None:
    rows = json.loads(listed("--json").stdout)
    assert [row["code"] for row in rows] == list(languages())
    header = (files("midalign") / "languages.tsv").read_text("utf-8").partition("\n")[0].split("\t")
    for row in rows:
        assert list(row) == [*header, "resource", "resource_source"]
        known = languages()[row["code"]]
        columns = {**vars(known), **known.codes, "resource": known.resource}
        del columns["codes"]
        assert columns == {name: value for name, value in row.items() if name != "resource_source"}
        assert "Joshi et al. 2020" in row["resource_source"]


@pytest.mark.parametrize("family", ["slot", "translation"])
def test_a_family_has_the_languages_of_its_task_files(family: str) -> None:
    expected = set()
    for path in Path(tasks_dir() / family).rglob("*.yaml"):
        # lm-eval's tag for functions is no YAML that we need here.
        content = yaml.load(path.read_text("utf-8"), yaml.BaseLoader)
        if "task" in content and "group" not in content:
            expected |= set(content["metadata"]["language"].split("-"))
    assert {row["code"] for row in json.loads(listed("--family", family, "--json").stdout)} == expected


def test_a_family_that_does_not_exist() -> None:
    done = listed("--family", "slots")
    assert done.returncode == 1
    assert "No family 'slots'. Did you mean slot? Expected " in done.stderr
