"""One walk through every task that midalign has: files, prompts, gold answers, garbage."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from midalign import harness
from midalign.data import massive, ntrex, uner, wmt23, xsid
from midalign.families import family
from midalign.metrics import scorer
from midalign.tasks import tasks_dir

ITEMS = 40
"""Items of each task: the first, and as many from the end of the file."""

GARBAGE = ("", "🤷 ￿ \x00")

LONG_GARBAGE = ("[" * 100_000, "x" * 1_000_000)
"""For a few tasks of each group: such answers take a while to score."""

GROUPS = {
    "midalign_mini": None,
    "midalign_slot": massive,
    "midalign_slot_bare": massive,
    "midalign_slot_xsid": xsid,
    "midalign_mt_wmt23": wmt23,
    "midalign_mt_ntrex": ntrex,
    "midalign_json_uner": uner,
    "midalign_json_call": massive,
}
"""Every group whose data can stand beside the checkout, with its data set."""

NOT_HERE = ("midalign_mt_flores",)
"""Groups of data that no test has: tests/data/test_flores.py reads a small archive in its layout."""

CEILING = {"slot_f1_reference", "strict_f1", "loose_f1"}
"""Scores of placed words, which gold answers need not reach: README of slot filling."""


def chat(messages: list[dict[str, str]], **_: Any) -> str:
    """A chat template."""
    return "".join(f"<{one['role']}>{one['content']}</>" for one in messages) + "<assistant>"


@pytest.fixture
def real(
    group: str, shared_data: Path, store_once: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache with the group's data set."""
    data = GROUPS[group]
    if data is None:
        return
    folder = shared_data / data.FILES.name
    if not folder.is_dir():
        pytest.skip(f"{folder.name} is not among the real data sets (../shared/data)")
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(data))


def test_every_task_is_walked() -> None:
    """English to English is in no group."""
    varieties = [f"midalign_mt_ntrex_{direction.format(code)}"
                 for code in ("en_gb", "en_in", "en_us") for direction in ("en-{}", "{}-en")]  # fmt: skip
    walked = {*harness.expand([*GROUPS, *NOT_HERE]), *varieties}
    files = {path.stem for path in tasks_dir().rglob("*.yaml")}
    assert walked == {name for name in files if "group" not in harness._file(name)}


def test_every_family_says_where_it_comes_from() -> None:
    for name in {harness.metadata(task)["family"] for task in harness.expand([*GROUPS, *NOT_HERE])}:
        folder = {"slot_spans": "slot"}.get(name, name)
        text = (tasks_dir() / folder / "README.md").read_text("utf-8")
        for part in ("## Paper", "@inproceedings", "licence", "## Metrics", "## Changelog"):
            assert part in text.casefold() or part in text, (name, part)


@pytest.mark.exhaustive
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_the_tasks_of_a_group(group: str, real: None) -> None:
    tasks = harness.load_tasks([group])
    for name, task in tasks.items():
        metadata = harness.metadata(name)
        assert {"version", "family", "source", "language"} <= set(metadata), name
        assert len(family(metadata["family"]).data_digest(metadata, "test")) == 64, name
        docs = list(task.test_docs())
        docs = docs if len(docs) <= 2 * ITEMS else [*docs[:ITEMS], *docs[-ITEMS:]]
        gold = [task.doc_to_target(doc) for doc in docs]
        _check_prompts(name, task, docs[0])
        _check_gold(name, task, docs, gold)
        _check_garbage(name, task, docs[:3], GARBAGE)
    for name in harness.expand([group])[::16]:
        _check_garbage(name, tasks[name], list(tasks[name].test_docs())[:1], LONG_GARBAGE)


def _check_garbage(name: str, task: Any, docs: list[dict[str, Any]], outputs: Sequence[str]) -> None:
    own = scorer(harness.metadata(name)["family"])
    # A letter of the garbage may stand in a reference, which is worth a little chrF++.
    most = 1 if own.METRICS[own.HEADLINE].percent else 0.01
    for output in outputs:
        value = _aggregated(task, docs, [output] * len(docs))[own.HEADLINE]
        # Documents without spans, of which none is found either, have no case.
        assert math.isnan(value) or value < most, (name, output[:10])


def _check_prompts(name: str, task: Any, doc: dict[str, Any]) -> None:
    text = next(doc[key] for key in ("utterance", "text", "source") if key in doc)
    plain = harness.prompt(task, doc)
    assert text in plain, name
    turns = harness.prompt(task, doc, apply_chat_template=chat)
    assert text in turns, name
    assert turns.endswith("</><assistant>"), name


def _check_gold(name: str, task: Any, docs: list[dict[str, Any]], gold: list[str]) -> None:
    stops = task.config.generation_kwargs["until"]
    assert not any(stop in target for stop in stops for target in gold), name
    own = family(harness.metadata(name)["family"]).metrics(harness.metadata(name))
    scores = _aggregated(task, docs, gold)
    rising = {one["metric"] for one in task.config.metric_list if one["higher_is_better"]}
    for metric in rising & set(own) - CEILING:
        assert scores[metric] == pytest.approx(100 if own[metric].percent else 1), (name, metric)
    for metric in CEILING & set(own):
        assert 0.5 < scores[metric] <= 1, (name, metric)


def _aggregated(task: Any, docs: list[dict[str, Any]], outputs: list[str]) -> dict[str, float]:
    """What lm-eval computes from documents and their outputs, standard errors left out."""
    results = [task.process_results(doc, [output]) for doc, output in zip(docs, outputs, strict=True)]
    functions = task.aggregation()
    names = [name for name in results[0] if not name.endswith("_stderr")]
    return {name: functions[name]([result[name] for result in results]) for name in names}
