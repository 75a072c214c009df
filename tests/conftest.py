"""Fixtures that several rooms share."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from midalign.data import massive

TESTS = Path(__file__).parent
LONGEST = (
    "evaluate/test_run.py",
    "train/test_distributed.py",
    "test_cluster.py",
    "test_sweep.py",
    "test_analyze.py",
    "evaluate/test_vllm.py",
    "evaluate/test_vllm_serving.py",
    "test_guard.py",
    "test_all_tasks.py",
    "train/test_front_door.py",
    "train/test_monitor.py",
    "train/test_overlap_guard.py",
    "train/test_forms_of_training.py",
    "evaluate/comet/test_comet.py",
    "metrics/test_structured.py",
    "train/test_card.py",
    "train/test_families_recipe.py",
    "families/test_structured_family.py",
    "test_examples.py",
    "train/test_preview.py",
)
"""Files that start first, so that no worker ends alone with a long one."""

# How fast inputs are generated is the machine's load and not the code's fault.
settings.register_profile("midalign", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("midalign")

# Background jobs of a script inherit that Ctrl-C is ignored; the commands under test must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of LONGEST first, in its order. Workers take files in the order of collection."""
    ranks = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


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
