"""The check of constraints against stand-ins for a package index: wheels with metadata alone, no network."""

import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LINUX = "x86_64-manylinux_2_31"


@pytest.fixture(scope="module")
def pins() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pins", ROOT / "scripts" / "checks" / "pins.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_wheel(folder: Path, name: str, version: str, *requires: str, tag: str = "py3-none-any") -> None:
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires]
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{name}-{version}.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")


@pytest.fixture
def resolve(pins: ModuleType, tmp_path: Path) -> Callable[[str, str], str]:
    """Resolve `engine` under constraints for a Python version.

    The engine needs older tools above Python 3.11, as vllm needs an older setuptools, and has wheels for two
    Pythons.
    """
    index = tmp_path / "index"
    index.mkdir()
    needs = ("tools", "tools<81; python_version > '3.11'")
    for tag in ("cp311-cp311-manylinux_2_31_x86_64", "cp312-cp312-manylinux_2_31_x86_64"):
        write_wheel(index, "engine", "0.32.0", *needs, tag=tag)
    write_wheel(index, "tools", "80.9.0")
    write_wheel(index, "tools", "84.2.1")

    def run(text: str, python: str) -> str:
        constraints, wanted = tmp_path / "constraints.txt", tmp_path / "wanted.in"
        constraints.write_text(text)
        wanted.write_text("engine")
        sources = [str(wanted), "--no-index", "--find-links", str(index)]
        return str(pins.resolve_pins(constraints, python, LINUX, sources))

    return run


def test_pins_that_fit_every_python_pass(resolve: Callable[[str, str], str]) -> None:
    for python in ("3.11", "3.12"):
        assert resolve("engine==0.32.0\ntools==80.9.0\n", python) == ""


def test_a_pin_that_does_not_fit_a_newer_python_fails(resolve: Callable[[str, str], str]) -> None:
    constraints = "engine==0.32.0\ntools==84.2.1\n"
    assert resolve(constraints, "3.11") == ""
    assert "tools==84.2.1" in resolve(constraints, "3.12")


def test_a_package_without_a_wheel_for_a_python_fails(resolve: Callable[[str, str], str]) -> None:
    assert "no wheels with a matching Python" in resolve("engine==0.32.0\ntools==80.9.0\n", "3.13")


def test_a_package_that_is_not_pinned_fails(resolve: Callable[[str, str], str]) -> None:
    assert resolve("engine==0.32.0\n", "3.12") == "not pinned: tools==80.9.0"


def test_a_stand_in_for_torch_serves_every_python(pins: ModuleType, tmp_path: Path) -> None:
    builds, folder = tmp_path / "builds", tmp_path / "index"
    builds.mkdir()
    folder.mkdir()
    write_wheel(builds, "torch", "2.13.0+cpu", "sympy", tag="cp311-cp311-manylinux_2_28_x86_64")
    pins.write_stand_in(builds, folder)
    write_wheel(folder, "sympy", "1.14.0")
    constraints, wanted = tmp_path / "constraints.txt", tmp_path / "wanted.in"
    constraints.write_text("torch==2.13.0+cpu\nsympy==1.14.0\n")
    wanted.write_text("torch")
    sources = [str(wanted), "--no-index", "--find-links", str(folder)]
    assert pins.resolve_pins(constraints, "3.14", LINUX, sources) == ""
    constraints.write_text("torch==2.13.0+cpu\n")
    assert pins.resolve_pins(constraints, "3.14", LINUX, sources) == "not pinned: sympy==1.14.0"


def test_pythons_are_those_of_the_classifiers(pins: ModuleType) -> None:
    assert pins.supported_pythons() == ["3.11", "3.12", "3.13", "3.14"]
