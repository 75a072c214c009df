"""What lm-eval gives for our tasks: samples, tables and warnings, with the plug-in and a model that knows."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table
from midalign_lm_eval import hooks

from midalign.tasks import tasks_dir

GROUP = "midalign_mini_slot"


class Answering(LM):
    """A model that answers as a function of the document."""

    def __init__(self, answer: Callable[[dict[str, Any]], str]) -> None:
        super().__init__()
        self.answer = answer
        self.generated: dict[str, Any] = {}

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return [self.answer(request.doc) for request in requests]

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


@pytest.fixture
def plugged_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(evaluator, "evaluate", evaluator.evaluate)
    logger = logging.getLogger("lm_eval.api.task")
    filters = list(logger.filters)
    hooks.wrap_evaluate()
    hooks.silence_hints()
    yield
    logger.filters[:] = filters


def answered(answer: Callable[[dict[str, Any]], str]) -> Any:
    tasks = TaskManager(include_path=str(tasks_dir()), include_defaults=False).load([GROUP])
    return evaluator.evaluate(Answering(answer), tasks, limit=20, bootstrap_iters=100)


def german_says_none(doc: dict[str, Any]) -> str:
    return "None" if doc["language"] == "de" else str(doc["target"])


def test_every_sample_has_a_number_per_metric_and_the_right_ones_can_be_filtered(plugged_in: None) -> None:
    results = answered(german_says_none)
    for name, samples in results["samples"].items():
        for sample in json.loads(json.dumps(samples, default=str)):
            assert all(isinstance(sample[metric], float) for metric in sample["metrics"])
            assert not any("_stderr" in key for key in sample)
            right = not name.endswith("_de") or sample["target"] == "None"
            assert (sample["exact_match"] == 1) == (sample["slot_f1"] == 1) == right


def test_groups_leave_out_tasks_without_a_case(plugged_in: None) -> None:
    results = answered(german_says_none)
    scores = results["results"]
    metric = "values_not_in_utterance"
    assert scores[f"{GROUP}_de"][f"{metric},none"] == "N/A"
    assert scores[f"{GROUP}_de"][f"{metric}_stderr,none"] == "N/A"
    assert scores[GROUP][f"{metric},none"] == results["groups"][GROUP][f"{metric},none"] == 0
    assert scores[f"{GROUP}_de"]["slot_f1,none"] == 0
    assert scores[f"{GROUP}_fr"]["slot_f1,none"] == 1
    assert scores[GROUP]["slot_f1,none"] == pytest.approx(0.9)
    assert not any("_stderr_stderr" in key for own in scores.values() for key in own)
    json.dumps(scores, allow_nan=False)
    assert "nan" not in make_table(results)
    assert not any(isinstance(v, float) and math.isnan(v) for own in scores.values() for v in own.values())


def test_directions_are_right_and_there_is_no_warning_of_ours(
    plugged_in: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        results = answered(german_says_none)
    assert [
        entry.getMessage() for entry in caplog.records if entry.name.startswith(("lm_eval", "midalign"))
    ] == []
    directions = results["higher_is_better"][GROUP]
    assert directions["slot_f1"] is True
    assert directions["values_not_in_utterance"] is False
    assert directions["slot_f1_stderr"] is None
