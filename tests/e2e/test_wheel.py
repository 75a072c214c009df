"""The wheel, alone in an environment, used from another directory.

The environment sees the packages of this one through a path, so that nothing is downloaded; start-up files of
this one's editable install are not read that way, and the packages of the wheel come first.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_UP_FILES = {"midalign_autoload.pth", "midalign_autoload.start"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # By way of a source distribution, as make dist and releases build it.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = folder.glob("*.whl")
    return built


class Environment:
    """A virtual environment, and commands in it from a directory that holds nothing else."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder / "environment", with_pip=False, symlinks=True)
        self.bin = folder / "environment" / "bin"
        self.packages = next((folder / "environment").glob("lib/python*/site-packages"))
        here = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (self.packages / "layer.pth").write_text("\n".join(here) + "\n")
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.cache = folder / "cache"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        dropped = ("PYTHONPATH", "MIDALIGN_NO_AUTOLOAD", "VIRTUAL_ENV")
        clean = {name: value for name, value in os.environ.items() if name not in dropped}
        own = {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "MIDALIGN_CACHE": str(self.cache),
        }
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.elsewhere,
            env=clean | own,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.elsewhere, check=False)
        assert done.returncode == 0, done.stderr

    def files(self) -> set[str]:
        found = (path for path in self.packages.rglob("*") if path.is_file())
        return {str(path.relative_to(self.packages)) for path in found} | {
            path.name for path in self.bin.iterdir()
        }


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.pip("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    return environment


def test_holds_what_is_needed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "midalign",
        "midalign_lm_eval",
    } | START_UP_FILES
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {name for name in tracked if name.startswith("midalign/")}
    tasks = (name.removeprefix("tasks/midalign/") for name in tracked if name.startswith("tasks/midalign/"))
    expected |= {f"midalign/tasks/{name}" for name in tasks}
    assert expected <= names
    assert {"midalign/py.typed", "midalign_lm_eval/py.typed"} <= names
    assert {"midalign/bases/mini/model.safetensors", "midalign/data/mini/de/test.tsv"} <= names
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name]
    assert wheel.stat().st_size < 25e6


def test_commands_work_from_another_directory(installed: Environment) -> None:
    shown = installed.run("midalign", "--help")
    assert shown.returncode == 0, shown.stderr
    assert "doctor" in shown.stdout
    folder = Path(installed.run("midalign", "tasks-dir").stdout.strip())
    assert folder == installed.packages / "midalign" / "tasks"
    train = installed.run("midalign-train", "--help")
    assert train.returncode == 0, train.stderr


def test_doctor_finds_everything_essential(installed: Environment) -> None:
    done = installed.run("midalign", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finds midalign's tasks and models" in done.stdout
    assert "midalign data add NAME PATH" in done.stdout


def test_lm_eval_scores_the_bundled_base(installed: Environment) -> None:
    assert _score(installed) == 4


def test_editable_lm_eval_sees_the_tasks(installed: Environment, tmp_path: Path) -> None:
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    source = tmp_path / "source" / "lm_eval"
    shutil.copytree(Path(spec.origin).parent, source, ignore=shutil.ignore_patterns("__pycache__"))
    link = installed.packages / "_editable_lm_eval.pth"  # sorts before layer.pth, so it wins
    link.write_text(f"{source.parent}\n")
    try:
        where = installed.run("python", "-c", "import lm_eval; print(lm_eval.__file__)")
        assert Path(where.stdout.strip()).parent == source
        listed = installed.run("python", "-m", "lm_eval", "ls", "tasks")
    finally:
        link.unlink()
    assert listed.returncode == 0, listed.stderr
    for name in ("midalign_slot", "midalign_slot_sw", "midalign_slot_bare_zh_cn", "midalign_mini_slot_en"):
        assert f"|{name} " in listed.stdout or f"|{name}|" in listed.stdout, name
    assert not list(source.rglob("*midalign*"))


def test_uninstall_leaves_nothing_behind(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path)
    before = environment.files()
    environment.pip("install", "--quiet", "--no-deps", "--no-index", str(wheel))
    assert before < environment.files()
    started = environment.run("python", "-c", "import midalign_lm_eval, midalign.cli.app")
    assert started.returncode == 0, started.stderr
    environment.pip("uninstall", "--quiet", "--yes", "midalign")
    assert environment.files() == before
    assert environment.run("python", "-c", "1").stderr == ""


def _score(environment: Environment) -> int:
    """Items that lm-eval scores with the bundled base; the metrics and their errors are there."""
    code = "from midalign.bases import resolve; print(resolve('mini'))"
    base = environment.run("python", "-c", code).stdout.strip()
    assert base.startswith(str(environment.packages))
    done = environment.run(
        *("python", "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={base},dtype=float32"),
        *("--device", "cpu", "--tasks", "midalign_mini_slot_en", "--limit", "4", "--output_path", "out"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "slot_f1" in done.stdout
    (path,) = (environment.elsewhere / "out").rglob("results_*.json")
    results = json.loads(path.read_text("utf-8"))
    metrics = results["results"]["midalign_mini_slot_en"]
    assert 0 <= metrics["slot_f1,none"] <= 1
    assert isinstance(metrics["slot_f1_stderr,none"], float)
    return int(results["n-samples"]["midalign_mini_slot_en"]["effective"])
