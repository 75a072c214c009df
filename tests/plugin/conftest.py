from collections.abc import Callable
from functools import partial
from pathlib import Path

import environment
import pytest


@pytest.fixture(scope="session")
def python_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the plug-in, shared by the session."""
    return environment.make(tmp_path_factory.mktemp("environment"))


@pytest.fixture
def run(python_home: Path, tmp_path: Path) -> Callable[..., object]:
    """Run its Python from an empty directory."""
    return partial(environment.run, python_home, tmp_path)
