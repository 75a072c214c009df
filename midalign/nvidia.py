"""NVIDIA driver and GPUs, and the tools that Triton compiles kernels with.

Standard library only, and no import of torch: scripts/setup.py asks before anything is installed.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from midalign.errors import EngineError

OLDEST_DRIVERS = {12: 525, 13: 580}
"""Major version of CUDA -> oldest major version of the driver on Linux, by NVIDIA's release notes of CUDA."""

PINNED_CUDA = 13
"""Major version of CUDA that the torch of constraints/cuda-linux.txt is built for."""

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class NvidiaGpu:
    """A GPU as nvidia-smi lists it."""

    name: str
    mebibytes: int
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, {self.mebibytes / 1024:.0f} GiB"


def list_gpus() -> list[NvidiaGpu]:
    """Return the GPUs that nvidia-smi lists, none where there is no nvidia-smi.

    Raises EngineError with its message if nvidia-smi fails, as it does when the driver is not loaded.
    """
    if shutil.which(QUERY[0]) is None:
        return []
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"nvidia-smi does not run: {error}") from error
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not rows or any(len(row) != 3 for row in rows):
        said = (done.stdout + done.stderr).strip().splitlines()
        raise EngineError(f"nvidia-smi lists no GPU: {said[0] if said else 'no output'}")
    return [
        NvidiaGpu(name, int(memory) if memory.isdecimal() else 0, driver) for name, memory, driver in rows
    ]


def driver_problem(driver: str, cuda: int) -> str:
    """Return why torch built for major version `cuda` finds no GPU with this driver. Empty if it does."""
    oldest = OLDEST_DRIVERS.get(cuda)
    major = driver.partition(".")[0]
    if oldest is None or not major.isdecimal() or int(major) >= oldest:
        return ""
    return (
        f"CUDA {cuda} needs driver {oldest} or newer. With driver {driver}, everything runs on the CPU "
        f"without an error. Update the driver"
    )


def compiler_problem() -> str:
    """Return what Triton lacks to compile its kernels for this Python, and a command. Empty if nothing."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    chosen = os.environ.get("CC")
    if chosen is not None and shutil.which(chosen.split(" ")[0]) is None:
        return f"$CC names {chosen}, which is not found: unset CC"
    if chosen is None and not (shutil.which("gcc") or shutil.which("clang")):
        return f"Neither gcc nor clang is found. Debian and Ubuntu: apt install gcc python{version}-dev"
    folder = sysconfig.get_config_var("INCLUDEPY")
    if not Path(folder, "Python.h").is_file():
        return f"No Python.h in {folder}. Debian and Ubuntu: apt install python{version}-dev"
    return ""
