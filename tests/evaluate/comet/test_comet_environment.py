"""What `midalign comet setup` decides; that it really installs is shown by the tests beside this one."""

import sys
from pathlib import Path

import pytest

from midalign.errors import EngineError
from midalign.evaluate.comet import environment

Asked = list[tuple[str, ...]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What pip was asked for; it succeeds, on a machine without a GPU."""
    found: Asked = []

    def pip(path: Path, *arguments: str) -> bool:
        found.append(arguments)
        return True

    monkeypatch.setattr(environment, "_pip", pip)
    monkeypatch.setattr(environment, "_has_nvidia", lambda: False)
    monkeypatch.setattr(environment, "_create", lambda path: path.mkdir(exist_ok=True))
    monkeypatch.setattr("platform.system", lambda: "Linux")
    return found


def test_a_second_call_does_nothing_until_a_pin_changes(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.set_up_environment(tmp_path / "env", print)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (torch, rest) = asked
    assert torch[-1].startswith("torch==")
    assert torch[-1].endswith("+cpu")
    assert rest[-3:] == (str(environment.CONSTRAINTS), "unbabel-comet", "setuptools")
    assert not environment.set_up_environment(tmp_path / "env", print)
    assert len(asked) == 2
    changed = tmp_path / "constraints.txt"
    changed.write_bytes(environment.CONSTRAINTS.read_bytes() + b"# changed\n")
    monkeypatch.setattr(environment, "CONSTRAINTS", changed)
    assert environment.set_up_environment(tmp_path / "env", print)


def test_a_set_up_that_failed_is_none(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDALIGN_COMET", str(tmp_path / "env"))
    monkeypatch.setattr(environment, "_pip", lambda path, *arguments: "unbabel-comet" not in arguments)
    with pytest.raises(EngineError, match="Rerun the same command to resume"):
        environment.set_up_environment(tmp_path / "env", print)
    with pytest.raises(EngineError, match="midalign comet setup"):
        environment.environment_python()


def test_pytorchs_own_index_follows_where_pip_has_no_cpu_build(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: Asked = []
    monkeypatch.setattr(environment, "_pip", lambda path, *arguments: bool(tried.append(arguments)))
    with pytest.raises(EngineError, match=r"torch==.*\+cpu.*PIP_FIND_LINKS=FOLDER midalign comet setup"):
        environment.set_up_environment(tmp_path / "env", print)
    assert [environment.TORCH_CPU_INDEX in arguments for arguments in tried] == [False, True]
    monkeypatch.setattr(environment, "_has_nvidia", lambda: True)
    with pytest.raises(EngineError, match=r"torch==[\d.]+\. "):
        environment.set_up_environment(tmp_path / "env", print)
    assert len(tried) == 3


def test_somebody_elses_folder_is_left_alone(asked: Asked, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(EngineError, match="contains something else"):
        environment.set_up_environment(tmp_path, print)
    assert not asked


def test_a_newer_python_looks_for_one_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment._interpreter() == sys.executable
    monkeypatch.setattr(environment, "PYTHONS", ((3, 9),))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"needs Python 3\.11 or 3\.12"):
        environment._interpreter()
    (tmp_path / "python3.9").write_text("#!/bin/sh\n")
    (tmp_path / "python3.9").chmod(0o755)
    assert environment._interpreter() == str(tmp_path / "python3.9")


def test_the_pins_are_those_that_our_own_environment_cannot_have() -> None:
    lines = environment.CONSTRAINTS.read_text("utf-8").splitlines()
    pins = dict(line.split(" ;")[0].split("==") for line in lines if not line.startswith("#"))
    assert pins["numpy"].startswith("1.")
    assert pins["transformers"].startswith("4.")
    assert int(pins["setuptools"].split(".")[0]) < 81
    assert {"unbabel-comet", "torch", "pytorch-lightning"} <= set(pins)
