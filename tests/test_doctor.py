import os
import re
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest

from midalign import doctor
from midalign.data.registry import DOWNLOADED
from midalign.errors import BaseModelError


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, doctor.Finding]:
    """Of this environment, with an empty cache."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    return {finding.name: finding for finding in doctor.findings()}


def test_essentials_work_here(findings: dict[str, doctor.Finding]) -> None:
    essential = {name for name, finding in findings.items() if finding.essential}
    assert {"midalign", "tasks", "lm-eval plug-in", "bundled base", "mini benchmark"} <= essential
    assert [f for f in findings.values() if f.essential and f.status != "pass"] == []


def test_missing_data_sets_are_listed_with_the_command_that_adds_them(
    findings: dict[str, doctor.Finding],
) -> None:
    row = findings["data sets"]
    assert row.status == "warn"
    assert row.found == f"0 of {len(DOWNLOADED)} complete, missing: {', '.join(DOWNLOADED)}"
    assert "midalign data add NAME PATH" in row.remedy.splitlines()


@pytest.mark.parametrize(
    ("name", "command"),
    [("Ray", "pip install 'midalign[ray]'"), ("trackers", "pip install 'midalign[tracking]'")],
)
def test_optional_packages_come_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    (installed,) = doctor.CHECKS[name]()
    assert installed.status == "pass"
    assert re.search(r"\d+\.\d+", installed.found)
    monkeypatch.setattr(doctor, "_version", lambda distribution: None)
    (missing,) = doctor.CHECKS[name]()
    assert missing.status == "warn"
    assert command in missing.remedy


def test_comets_environment_comes_with_the_command_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIDALIGN_COMET", str(tmp_path))
    (missing,) = doctor.CHECKS["COMET"]()
    assert missing.remedy.endswith("midalign comet setup")
    (tmp_path / "midalign-comet").touch()
    (there,) = doctor.CHECKS["COMET"]()
    assert there.status == "pass"


def test_the_screen_fits_80_columns_names_a_switched_off_plug_in_and_takes_under_5_cpu_seconds(
    tmp_path: Path,
) -> None:
    before = getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "midalign", "doctor"],
        env={**os.environ, "MIDALIGN_NO_AUTOLOAD": "1", "COLUMNS": "80", "MIDALIGN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    after = getrusage(RUSAGE_CHILDREN)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (row,) = (number for number, line in enumerate(lines) if line.startswith("fail  "))
    assert lines[row].split()[1:3] == ["lm-eval", "plug-in"]
    assert lines[row + 1].strip() == "unset MIDALIGN_NO_AUTOLOAD"
    assert re.fullmatch(r"\d+ pass, \d+ warn, 1 fail", lines[-1])
    for line in lines:
        assert len(line) <= 80 or len(line.split()[-1]) > 40, line  # a long path stays in one piece
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


def test_one_broken_thing_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Iterator[doctor.Finding]:
        raise ImportError("operator torchvision::nms does not exist")

    def refused() -> doctor.Iterator[doctor.Finding]:
        raise BaseModelError("No base")

    whole = iter([doctor.Finding("c", "here")])
    monkeypatch.setattr(doctor, "CHECKS", {"a": broken, "b": refused, "c": lambda: whole})
    _, first, second, third = doctor.findings()
    assert first.found == "ImportError: operator torchvision::nms does not exist"
    assert first.status == "fail"
    assert second.remedy == "No base"
    assert third.status == "pass"
