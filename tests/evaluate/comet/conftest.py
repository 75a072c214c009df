"""COMET's environment, made by our own command, and small random COMET models."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from midalign_command import start

from midalign.data import mini
from midalign.evaluate.comet import environment

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="session")
def comet_python() -> Path:
    """The Python of the environment in midalign's cache folder; it is made once, in a minute."""
    made = subprocess.run(
        [sys.executable, "-m", "midalign", "comet", "setup"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return environment.environment_python()


@pytest.fixture(scope="session")
def make_model(
    comet_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int, int], Path]:
    """Takes a name, a hidden size and a number of layers, and gives the folder of a random COMET model."""
    text = tmp_path_factory.mktemp("text") / "utterances.txt"
    lines = [
        s.source for direction in ("de-en", "hi-en", "ja-en") for s in mini.read(direction, "train")[:200]
    ]
    text.write_text("\n".join(lines), "utf-8")

    def make(name: str, hidden: int, layers: int) -> Path:
        folder = tmp_path_factory.mktemp("comet") / name
        subprocess.run(
            [comet_python, "-I", HERE / "make_comet_model.py", folder, text, str(hidden), str(layers)],
            check=True,
            capture_output=True,
        )
        return folder

    return make


@pytest.fixture(scope="session")
def comet_model(make_model: Callable[[str, int, int], Path]) -> Path:
    return make_model("tiny-comet", 16, 2)


@pytest.fixture
def user(comet_python: Path, tmp_path: Path) -> Mapping[str, str]:
    """The environment variables of somebody with a COMET environment, an empty cache and no network."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
        "MIDALIGN_CACHE": str(tmp_path / "cache"),
        "MIDALIGN_COMET": str(comet_python.parents[1]),
    }


@pytest.fixture
def midalign(user: Mapping[str, str]) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs our command; a traceback on the screen is never right."""

    def run(*arguments: object, status: int = 0, **changed: str) -> "subprocess.CompletedProcess[str]":
        process = start(*arguments, env={**user, **changed})
        out, err = process.communicate(timeout=300)
        assert process.returncode == status, err
        assert "Traceback" not in err
        return subprocess.CompletedProcess(arguments, status, out, err)

    return run


@pytest.fixture
def predict(comet_python: Path, tmp_path: Path) -> Callable[[Path, Sequence[Sequence[str]]], list[float]]:
    """COMET's own `predict` on (source, output, reference), called as its documentation does."""

    def scores(model: Path, segments: Sequence[Sequence[str]]) -> list[float]:
        import json

        file = tmp_path / "segments.json"
        file.write_text(json.dumps([dict(zip(("src", "mt", "ref"), one, strict=True)) for one in segments]))
        code = (
            "import json, sys; from comet import load_from_checkpoint; "
            "model = load_from_checkpoint(sys.argv[1]); samples = json.load(open(sys.argv[2])); "
            "print(json.dumps(model.predict(samples, batch_size=8, gpus=0, progress_bar=False)['scores']))"
        )
        command = [comet_python, "-W", "ignore", "-I", "-c", code, model / "checkpoints" / "model.ckpt", file]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found

    return scores
