"""The virtual environment of COMET, which needs numpy<2, transformers<5 and protobuf<5.

`constraints.txt` beside this module pins its packages. scripts/pin.py writes that file.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from midalign.data import cache
from midalign.errors import EngineError

CONSTRAINTS = Path(__file__).with_name("constraints.txt")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PYTHONS = ((3, 12), (3, 11))
"""Versions of Python that COMET runs on. numpy<2 has no wheels for newer ones."""
STAMP = "midalign-comet"
"""File that marks a complete environment, with the digest of its constraints."""
SETUP = "midalign comet setup"
"""Command that creates the environment."""


def environment_folder() -> Path:
    """Return $MIDALIGN_COMET, or `comet/env` in midalign's cache folder."""
    chosen = os.environ.get("MIDALIGN_COMET")
    return (
        Path(chosen).expanduser().absolute()
        if chosen
        else (cache.cache_folder() / "comet" / "env").absolute()
    )


def is_ready() -> bool:
    """Return whether the environment was completed."""
    return (environment_folder() / STAMP).is_file()


def environment_python() -> Path:
    """Return the interpreter of the environment. Raises EngineError with the command that creates it."""
    if not is_ready():
        raise EngineError(
            f"COMET needs an environment of its own, and there is none in {environment_folder()}. "
            f"Create it (a minute and 1.4 GB): {SETUP}"
        )
    return _python(environment_folder())


def set_up_environment(path: Path, tell: Callable[[str], None]) -> bool:
    """Create the environment in `path`. Return False if it is already up to date.

    An interrupted set-up resumes. Raises EngineError if no Python fits, the folder contains something else,
    or pip fails, which prints the reason on the terminal.
    """
    with cache.lock(path):
        stamp = path / STAMP
        wanted = hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()
        if stamp.is_file() and stamp.read_text("utf-8").strip() == wanted:
            return False
        if path.exists() and any(path.iterdir()) and not (path / "pyvenv.cfg").is_file():
            raise EngineError(f"{path} contains something else. Choose another folder: {SETUP} --path DIR")
        tell(f"Setting up COMET in {path}: a minute and 1.4 GB, once")
        stamp.unlink(missing_ok=True)
        _create(path)
        _install_torch(path, tell)
        if not _pip(path, "install", "-qq", "--constraint", str(CONSTRAINTS), "unbabel-comet", "setuptools"):
            raise EngineError(
                "COMET could not be installed: see pip's error above. Rerun the same command to resume"
            )
        cache.write_to_cache(stamp, f"{wanted}\n".encode())
    return True


def _python(environment: Path) -> Path:
    return environment / "bin" / "python"


def _interpreter() -> str:
    """Return a Python that COMET's pinned packages have wheels for: this interpreter, or one on the path."""
    if sys.version_info[:2] in PYTHONS:
        return sys.executable
    names = [f"python{major}.{minor}" for major, minor in PYTHONS]
    for name in names:
        if found := shutil.which(name):
            return found
    raise EngineError(
        f"COMET needs Python 3.11 or 3.12 (for numpy<2); this is {platform.python_version()} and neither "
        f"{' nor '.join(names)} is on the path. Install one of them, then: {SETUP}"
    )


def _create(path: Path) -> None:
    """Create a virtual environment in `path`, unless a working one exists."""
    works = [str(_python(path)), "-m", "pip", "--version"]
    if _python(path).exists() and subprocess.run(works, capture_output=True).returncode == 0:
        return
    if subprocess.run([_interpreter(), "-m", "venv", "--clear", str(path)], check=False).returncode != 0:
        raise EngineError(
            f"Could not create a virtual environment in {path}. "
            f"On Debian and Ubuntu: apt install python3-venv"
        )


def _install_torch(path: Path, tell: Callable[[str], None]) -> None:
    """Install torch alone, a CPU build on Linux without a GPU.

    It comes from the index that pip is configured for, else from PyTorch's own index.
    """
    lines = CONSTRAINTS.read_text("utf-8").splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    on_cpu = platform.system() == "Linux" and not _has_nvidia()
    if on_cpu:
        torch += "+cpu"
    if _pip(path, "install", "-qq", "--no-deps", torch):
        return
    if on_cpu:
        tell(f"{torch} is not in the index that pip is configured for, trying {TORCH_CPU_INDEX}")
        if _pip(path, "install", "-qq", "--no-deps", "--index-url", TORCH_CPU_INDEX, torch):
            return
    raise EngineError(f"Could not install {torch}. With its wheel in a folder: PIP_FIND_LINKS=FOLDER {SETUP}")


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def _pip(path: Path, *arguments: str) -> bool:
    """Run pip with its output on the terminal, and return whether it succeeded."""
    command = [str(_python(path)), "-m", "pip", "--disable-pip-version-check", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, env=environment).returncode == 0
