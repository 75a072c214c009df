import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from midalign import doctor, nvidia
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


HEAVY = ("accelerate", "peft", "ray", "transformers", "vllm", "xgrammar")
"""Packages that take seconds to import. doctor reads their versions from metadata."""

IMPORTED = """
import sys
from midalign.cli import main
try:
    main()
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def test_the_screen_fits_80_columns_names_a_switched_off_plug_in_and_imports_no_heavy_package(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, "doctor"],
        env={**os.environ, "MIDALIGN_NO_AUTOLOAD": "1", "COLUMNS": "80", "MIDALIGN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    (row,) = (number for number, line in enumerate(lines) if line.startswith("fail  "))
    assert lines[row].split()[1:3] == ["lm-eval", "plug-in"]
    assert lines[row + 1].strip() == "unset MIDALIGN_NO_AUTOLOAD"
    assert re.fullmatch(r"\d+ pass, \d+ warn, 1 fail", lines[-1])
    for line in lines:
        assert len(line) <= 80 or len(line.split()[-1]) > 40, line  # a long path stays in one piece
    imported = set(done.stderr.splitlines()[-1].split())
    assert {"midalign", "torch", "lm_eval"} <= imported, "what is checked by importing it"
    assert imported & set(HEAVY) == set()


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a stand-in for nvidia-smi on PATH, which runs the given line of shell."""

    def install(line: str) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return install


MISMATCH = "echo 'Driver/library version mismatch'; exit 18"
H200 = "echo 'NVIDIA H200, 143771, {driver}'"


@pytest.mark.parametrize(
    ("line", "cuda", "available", "status", "remedy"),
    [
        (H200.format(driver="580.65.06"), "13.0", True, "pass", ""),
        (H200.format(driver="575.51.03"), "13.0", False, "fail", "CUDA 13 needs driver 580 or newer"),
        (H200.format(driver="575.51.03"), "12.8", True, "pass", ""),
        (H200.format(driver="580.65.06"), "13.0", False, "fail", "torch sees no GPU"),
        (H200.format(driver="580.65.06"), None, False, "warn", "rm -r .venv && make setup"),
        (
            "echo 'Driver/library version mismatch'; exit 18",
            "13.0",
            False,
            "fail",
            "Repair the NVIDIA driver",
        ),
        (MISMATCH, None, False, "warn", "Repair the NVIDIA driver"),
    ],
)
def test_driver_too_old_for_torch_or_unused_gpu_comes_with_a_remedy(
    nvidia_smi: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    cuda: str | None,
    available: bool,
    status: str,
    remedy: str,
) -> None:
    import torch

    nvidia_smi(line)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    row, *rest = doctor.CHECKS["GPU"]()
    assert row.status == status
    assert (remedy in row.remedy) if remedy else row.remedy == ""
    if "H200" in line:
        assert row.found.startswith("NVIDIA H200, 140 GiB, driver 5")
        assert [finding.name for finding in rest] == ["compiler"]
    else:
        assert "Driver/library version mismatch" in row.found


def test_without_nvidia_smi_no_gpu_is_expected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (row,) = doctor.CHECKS["GPU"]()
    assert (row.status, row.found) == ("pass", "none, there is no nvidia-smi")


def test_compiler_and_headers_that_triton_lacks_are_named_with_a_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "gcc").touch(mode=0o755)
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(nvidia.sysconfig, "get_config_var", lambda name: str(tmp_path))
    assert nvidia.compiler_problem() == ""
    monkeypatch.setenv("CC", "icc -m64")
    assert "unset CC" in nvidia.compiler_problem()
    monkeypatch.delenv("CC")
    (tmp_path / "Python.h").unlink()
    assert nvidia.compiler_problem().endswith(f"apt install python{version}-dev")
    (tmp_path / "gcc").unlink()
    assert nvidia.compiler_problem().endswith(f"apt install gcc python{version}-dev")


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
