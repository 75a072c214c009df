"""Translation through lm-eval's own task objects: prompt, gold target, and outputs that are none."""

from pathlib import Path
from typing import Any

import pytest

from midalign import harness
from midalign.data import alma, wmt23
from midalign.errors import TaskError
from midalign.evaluate import run
from midalign.evaluate.settings import EvalSettings
from midalign.families import translation
from midalign.metrics.translation import METRICS


@pytest.fixture(scope="module")
def task() -> Any:
    return harness.load_tasks(["midalign_mini_mt_en-de"])["midalign_mini_mt_en-de"]


def aggregated(task: Any, outputs: list[str]) -> dict[str, float]:
    """What lm-eval computes from the first documents and these outputs."""
    docs = [doc for doc, _ in zip(task.test_docs(), outputs, strict=False)]
    results = [task.process_results(doc, [output]) for doc, output in zip(docs, outputs, strict=True)]
    functions = task.aggregation()
    return {name: functions[name]([result[name] for result in results]) for name in results[0]}


def test_the_prompt_names_both_languages(task: Any) -> None:
    doc = next(iter(task.test_docs()))
    prompt = harness.prompt(task, doc)
    assert prompt == f"Translate from English to German.\n\nEnglish: {doc['source']}\nGerman:"
    assert task.config.target_delimiter + task.doc_to_target(doc) == f" {doc['target']}"


def test_gold_targets_score_a_hundred(task: Any) -> None:
    gold = [task.doc_to_target(doc) for doc in task.test_docs()][:20]
    scores = aggregated(task, gold)
    assert scores["chrf"] == pytest.approx(100)
    assert scores["bleu"] == pytest.approx(100)
    assert scores["length_ratio"] == 1
    assert scores["chrf_stderr"] == pytest.approx(0)
    assert set(scores) == {f"{name}{suffix}" for name in METRICS for suffix in ("", "_stderr")}


@pytest.mark.parametrize("output", ["", "\n", "🤷 ￿ \x00", "x" * 100_000])
def test_outputs_that_are_none(task: Any, output: str) -> None:
    scores = aggregated(task, [output] * 3)
    assert scores["bleu"] == 0
    assert scores["chrf"] < 1


def test_one_line_is_read(task: Any) -> None:
    doc = next(iter(task.test_docs()))
    assert translation.counts(doc, f"\n{doc['target']}\n\nMore.") == translation.counts(doc, doc["target"])


def test_no_gold_target_is_cut_by_the_stop_string_or_the_limit() -> None:
    from transformers import AutoTokenizer

    from midalign import bases

    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    for name, task in harness.load_tasks(["midalign_mini_mt"]).items():
        targets = [task.doc_to_target(doc) for doc in task.test_docs()]
        assert not any("\n" in target for target in targets), name
        longest = max(map(len, tokenizer(targets)["input_ids"]))
        assert longest < task.config.generation_kwargs["max_gen_toks"], name


@pytest.fixture
def kept(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with WMT23 and without ALMA, and no way to fetch it."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wmt23.add(shared_data / "wmt23")


@pytest.mark.data
def test_shots_are_almas_once_it_is_there(kept: None, shared_data: Path) -> None:
    english, ukrainian = "midalign_mt_wmt23_de-en", "midalign_mt_wmt23_cs-uk"
    assert all(not task.sampler.df for task in harness.load_tasks([english, ukrainian]).values())
    alma.add(shared_data / "alma")
    tasks = harness.load_tasks([english, ukrainian])
    assert len(tasks[english].sampler.df) == translation.SHOTS
    assert not tasks[ukrainian].sampler.df
    assert tasks[english].has_training_docs()
    assert not tasks[ukrainian].has_training_docs()


@pytest.mark.data
def test_more_shots_than_there_are_is_an_error(kept: None) -> None:
    settings = EvalSettings(
        base="mini", tasks=("midalign_mt_wmt23_cs-uk",), output=Path("unused"), num_fewshot=2
    )
    with pytest.raises(TaskError, match="midalign data add alma PATH"):
        run.evaluate_models(settings, lambda _: None)


def test_a_signature_names_the_reference_where_a_direction_has_several() -> None:
    """Hebrew has two, and sacreBLEU's wmt23 takes the second."""
    plain = translation.signatures({"source": "ntrex", "language": "en-he"})
    for direction in ("en-he", "he-en"):
        signed = translation.signatures({"source": "wmt23", "language": direction})
        assert signed == {metric: f"{signature}|ref:refB" for metric, signature in plain.items()}
    assert translation.signatures({"source": "wmt23", "language": "en-cs"}) == plain
