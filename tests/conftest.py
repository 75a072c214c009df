"""Fixtures that several rooms share."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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
def store_once(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function that adds data sets to one cache, each once per session, and returns the cache's folder."""
    folder = str(tmp_path_factory.mktemp("data-sets"))
    stored: set[ModuleType] = set()

    def store(*sources: ModuleType) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MIDALIGN_CACHE", folder)
            for source in sources:
                if source not in stored:
                    source.add(shared_data / source.FILES.name)
                    stored.add(source)
        return folder

    return store


@pytest.fixture
def massive_cache(store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks find MASSIVE in the cache."""
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(massive))
