"""Fixtures that several rooms share."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from midalign.data import massive

# How fast inputs are generated is the machine's load and not the code's fault.
settings.register_profile("midalign", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("midalign")

# Background jobs of a script inherit that Ctrl-C is ignored; the commands under test must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; tests that need it say so when it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not beside this checkout (../shared/data)")
    return folder


@pytest.fixture(scope="session")
def _massive(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds MASSIVE, filled once a session."""
    folder = tmp_path_factory.mktemp("massive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDALIGN_CACHE", str(folder))
        massive.add(shared_data / "massive")
    return folder


@pytest.fixture
def massive_cache(_massive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks find MASSIVE in the cache."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(_massive))
