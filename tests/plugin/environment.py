"""A Python with site-packages of its own, where the plug-in's files lie as a wheel lays them."""

import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_UP_FILES = ("midalign_autoload.pth", "midalign_autoload.start")


def make(folder: Path) -> Path:
    """The environment: packages of this one are visible, its start-up files are not run."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = site_packages(folder)
    # A path in a .pth file joins sys.path, but the .pth files that lie there are not read.
    seen = dict.fromkeys([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (packages / "here.pth").write_text("\n".join(seen) + "\n")
    plugins = ROOT / "harness_plugins"
    for file in START_UP_FILES:
        shutil.copy(plugins / file, packages)
    shutil.copytree(plugins / "midalign_lm_eval", packages / "midalign_lm_eval")
    return folder


def site_packages(environment: Path) -> Path:
    """Its site-packages."""
    return next(environment.glob("lib/python*/site-packages"))


def run(
    environment: Path, folder: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Its Python with `arguments` in another directory; keyword arguments are environment variables."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MIDALIGN_NO_AUTOLOAD")}
    return subprocess.run(
        [str(environment / "bin" / "python"), *arguments],
        cwd=folder,
        env={**clean, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
