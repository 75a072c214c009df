"""Tiny random models for the tests of this folder."""

from pathlib import Path

import pytest
from tiny_models import make_adapter, make_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def adapter(base: Path) -> Path:
    return make_adapter(base.parent / "adapter-a", base)


@pytest.fixture(scope="session")
def other_adapter(base: Path) -> Path:
    return make_adapter(base.parent / "adapter-b", base, seed=2, rank=4)
