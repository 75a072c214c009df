import os
import subprocess
import sys
from pathlib import Path

import pytest

from midalign import doctor
from midalign.errors import BaseModelError


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, doctor.Finding]:
    """Of this environment, with an empty cache."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    return {finding.name: finding for finding in doctor.findings()}


def test_essentials_work_here(findings: dict[str, doctor.Finding]) -> None:
    essential = {name for name, finding in findings.items() if finding.essential}
    assert {"midalign", "tasks", "lm-eval plug-in", "bundled base", "mini benchmark"} <= essential
    assert [f for f in findings.values() if f.essential and not f.works] == []


def test_absent_data_comes_with_the_command_that_adds_it(findings: dict[str, doctor.Finding]) -> None:
    for name in ("massive", "tatoeba", "ntrex"):
        assert findings[name].found == "not here"
        assert f"midalign data add {name}" in findings[name].remedy
        assert not findings[name].essential


def test_comets_environment_comes_with_the_command_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIDALIGN_COMET", str(tmp_path))
    (missing,) = doctor.LOOKS["COMET"]()
    assert missing.remedy.endswith("midalign comet setup")
    (tmp_path / "midalign-comet").touch()
    (there,) = doctor.LOOKS["COMET"]()
    assert there.works


def test_a_switched_off_plug_in_is_found_and_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "midalign", "doctor"],
        env={**os.environ, "MIDALIGN_NO_AUTOLOAD": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "unset MIDALIGN_NO_AUTOLOAD" in done.stdout


def test_one_broken_thing_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> doctor.Iterator[doctor.Finding]:
        raise ImportError("operator torchvision::nms does not exist")

    def refused() -> doctor.Iterator[doctor.Finding]:
        raise BaseModelError("No base")

    whole = iter([doctor.Finding("c", "here")])
    monkeypatch.setattr(doctor, "LOOKS", {"a": broken, "b": refused, "c": lambda: whole})
    _, first, second, third = doctor.findings()
    assert first.found == "ImportError: operator torchvision::nms does not exist"
    assert not first.works
    assert second.remedy == "No base"
    assert third.works
