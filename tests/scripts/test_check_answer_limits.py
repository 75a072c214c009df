"""The token limits of the tasks have room for the gold answers."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from midalign.data import ntrex, uner, wmt23

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import check_answer_limits as limits  # noqa: E402
from generate_tasks import GROUPS, longest_bytes  # noqa: E402


@pytest.fixture(scope="module")
def mini() -> limits.Base:
    return limits.read_base("mini")


def longest_tasks(name: str, count: int) -> "tuple[limits.Group, list[str]]":
    """Return a group and the tasks with its longest answers in bytes."""
    (group,) = (group for group in GROUPS if group.name == name)
    return group, sorted(group.languages(), key=lambda task: -longest_bytes(group, task))[:count]


@pytest.mark.parametrize("name", ["midalign_mini_slot", "midalign_mini_json", "midalign_mini_mt"])
def test_the_mini_base_has_room_for_the_answers_of_the_mini_benchmark(name: str, mini: limits.Base) -> None:
    group, tasks = longest_tasks(name, 3)
    assert all(limits.measure(group, task, mini).fits for task in tasks)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["midalign_slot", "midalign_json_call"])
def test_the_mini_base_has_room_for_the_answers_of_massive(
    name: str, mini: limits.Base, massive_cache: None
) -> None:
    """Tamil, Malayalam and Burmese lost up to 122 answers at 128 tokens."""
    group, _ = longest_tasks(name, 0)
    for task in ("ta", "ml", "my"):
        fit = limits.measure(group, task, mini)
        assert fit.answers == 2974
        assert fit.longest > 128
        assert fit.fits


@pytest.mark.data
@pytest.mark.slow
def test_the_mini_base_has_room_for_the_answers_of_uner_but_not_for_all_of_ntrex(
    mini: limits.Base, store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(uner, wmt23, ntrex))
    group, _ = longest_tasks("midalign_json_uner", 0)
    assert all(limits.measure(group, task, mini, longest=50).fits for task in ("hr_set", "pt_bosque"))
    chinese = limits.measure(group, "zh_gsd", mini, longest=50)
    assert (chinese.in_task_limit, chinese.in_eval_limit) == (50, 49)  # one answer has 523 tokens
    group, _ = longest_tasks("midalign_mt_wmt23", 0)
    assert limits.measure(group, "he-en", mini).fits
    group, (burmese,) = longest_tasks("midalign_mt_ntrex", 1)
    assert burmese == "en-my"
    fit = limits.measure(group, burmese, mini)
    assert 0 < fit.answers - fit.in_task_limit < 40
    # A context of 1,024 tokens has room for 512 in the answer.
    assert fit.in_eval_limit < fit.in_task_limit
