"""`midalign leaderboard verify`: the decision rule, and reruns of the mini base."""

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from midalign.cli.app import app
from midalign.cli.exits import ALTERED, NOT_VERIFIABLE
from midalign.errors import EngineError
from midalign.evaluate import outcome
from midalign.leaderboard.decision import FALSE_ALARM, FURTHER, RerunRule
from midalign.leaderboard.trust import LOG
from midalign.leaderboard.verify import Verification, compare_answers, settings_of_record
from midalign.record import Items, read_items, read_record

PUBLISHED = Path(__file__).parents[2] / "leaderboard" / "results"
FP32 = RerunRule(0.002)


def at_least(k: int, n: int, p: float) -> float:
    """P(X >= k), X binomial, term by term."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize("tolerance", [0.002, 0.02])
@pytest.mark.parametrize("items", [10, 100, 500])
def test_the_bound_is_the_smallest_that_honest_reruns_hardly_exceed(items, tolerance):
    bound = RerunRule(tolerance).bound(items)
    assert at_least(bound + 1, items, tolerance) <= FALSE_ALARM < at_least(bound, items, tolerance)


def test_the_rule_finds_99_of_100_altered_records_at_100_items():
    assert FP32.detection(100, 0.05) >= 0.99
    assert FP32.detection(100, 0.002) < 2 * FALSE_ALARM
    # One stage would not do: neither with one differing item as its bound, nor with two.
    assert at_least(1, 100, 0.002) > 0.15
    assert at_least(2, 100, 0.05) < 0.97


def simulated(share: float, trials: int, rule: RerunRule = FP32) -> int:
    """Return how many of `trials` records of 3,000 items are accused, of whose items a share differs."""
    random = np.random.default_rng(0)
    new = {task: random.integers(0, 4, (300, 3)) for task in "abcdefghij"}
    accused = 0
    for seed in range(trials):
        wrong = np.zeros(3000, bool)
        wrong[random.permutation(3000)[: round(share * 3000)]] = True
        items = {
            task: Items(np.arange(300), counts + mask[:, None])
            for (task, counts), mask in zip(new.items(), np.split(wrong, 10), strict=True)
        }
        outcome = compare_answers(
            items, lambda drawn: {task: new[task][docs] for task, docs in drawn.items()}, rule, 100, seed
        )
        assert outcome.items in (100, 100 * (1 + FURTHER))
        accused += outcome.verdict == "altered"
    return accused


def test_simulated_records_are_judged_as_the_rule_says():
    """The figures of 1,000 records are those of scripts/checks/verify_power.py."""
    assert simulated(0.05, 200) >= 196
    assert simulated(0.002, 200) == 0
    assert simulated(0.0, 20) == 0


def test_fewer_items_than_asked_for_are_all_answered():
    items = {"a": Items(np.array([4, 9]), np.array([[1, 0], [1, 1]]))}
    asked = []

    def rerun(drawn):
        asked.append(drawn)
        return {"a": np.array([[1, 1], [1, 1]])}

    outcome = compare_answers(items, rerun, FP32, 100, 0)
    assert asked == [{"a": [4, 9]}]
    assert (outcome.items, outcome.differing) == (2, (("a", 4),))


def verify(path: Path, *options: str):
    return CliRunner().invoke(
        app, ["leaderboard", "verify", str(path), "--rerun", "12", "--seed", "3", *options]
    )


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    for file in PUBLISHED.glob("mini.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "mini.json"


@pytest.mark.slow
def test_the_published_record_of_the_mini_base_is_verified(mini):
    result = verify(mini)
    assert result.exit_code == 0, result.output
    assert "mini: verified. 0 of 12 items differ" in result.output
    (line,) = map(json.loads, (mini.parent / LOG).read_text().splitlines())
    assert (line["record"], line["verdict"], line["items"], line["seed"]) == ("mini", "verified", 12, 3)


@pytest.mark.slow
def test_a_record_of_other_answers_is_altered(tmp_path):
    """The counts of an adapter under the name of the base: only answering again shows it."""
    content = json.loads((PUBLISHED / "mini-aligned-seed1.json").read_text())
    content.update(name="forged", adapter=None, arm="base", seed=None, recipe=None)
    shutil.copy(PUBLISHED / content["items"]["file"], tmp_path)
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(content))
    result = verify(forged)
    assert result.exit_code == ALTERED, result.output
    assert "forged: altered." in result.output
    assert "differs: midalign_mini_slot_" in result.output


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["engine"].update(name="external"), "made elsewhere"),
        (lambda r: r["engine"].update(dtype="float16"), "No tolerance was measured for dtype 'float16'"),
        (lambda r: r["base"].update(digest="0" * 64), "base 000000000000, now"),
        (lambda r: r["base"].update(name="no/such/base"), "No base model 'no/such/base'"),
    ],
)
def test_what_cannot_be_answered_again_is_not_verifiable(mini, change, reason):
    content = json.loads(mini.read_text())
    change(content)
    mini.write_text(json.dumps(content))
    result = verify(mini)
    assert result.exit_code == NOT_VERIFIABLE, result.output
    assert "not verifiable" in result.output
    assert reason in result.output


def test_a_record_of_another_gpu_is_answered_again(mini, monkeypatch):
    content = json.loads(mini.read_text())
    content["engine"]["gpu"] = "NVIDIA H100 80GB HBM3"
    mini.write_text(json.dumps(content))
    described = outcome.describe_engine
    monkeypatch.setattr(
        outcome, "describe_engine", lambda *given: described(*given).model_copy(update={"gpu": "another GPU"})
    )
    answers = {task: of_task.counts for task, of_task in read_items(mini).items()}
    monkeypatch.setattr("midalign.leaderboard.verify.open_rerun", lambda *given: nullcontext(answers))
    monkeypatch.setattr(
        "midalign.leaderboard.verify.compare_answers",
        lambda items, rerun, *given: Verification(Path(), "verified", f"{len(rerun)} tasks"),
    )
    result = verify(mini)
    assert result.exit_code == 0, result.output
    assert "mini: verified. 10 tasks" in result.output


def test_an_engine_that_does_not_start_is_not_verifiable(mini, monkeypatch):
    def no_engine(*given):
        raise EngineError("vLLM is not installed")

    monkeypatch.setattr("midalign.evaluate.rerun.open_engine", no_engine)
    result = verify(mini)
    assert result.exit_code == NOT_VERIFIABLE, result.output
    assert "mini: not verifiable. vLLM is not installed" in result.output
    assert not (mini.parent / LOG).exists()


def test_reruns_use_the_kernels_of_the_record(monkeypatch):
    record = read_record(PUBLISHED / "mini.json")
    for invariant in (True, False):
        monkeypatch.setenv("VLLM_BATCH_INVARIANT", str(int(not invariant)))
        engine = record.engine.model_copy(update={"name": "vllm", "batch_invariant": invariant})
        of_vllm = record.model_copy(update={"engine": engine})
        assert settings_of_record(of_vllm, Path(), None, None).batch_invariant == invariant


def test_an_adapter_that_is_not_here_is_not_verifiable():
    result = verify(PUBLISHED / "mini-aligned-seed1.json")
    assert result.exit_code == NOT_VERIFIABLE
    assert "Give its folder: --adapter FOLDER" in result.output
