from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midalign import harness
from midalign.errors import TaskError
from midalign.families import slot
from midalign.languages import languages
from midalign.metrics import bootstrap, slot_spans
from midalign.metrics.slot import COLUMNS, METRICS

INSTRUCTION = (
    "Write the slots of the utterance as slot: value, separated by ; and in order of appearance, "
    "or None if it has none.\n\n"
)


def chat(messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """A chat template that shows every turn as it is."""
    turns = "".join(f"<{turn['role']}>{turn['content']}</>" for turn in messages)
    return turns + ("<assistant>" if add_generation_prompt else "")


@pytest.fixture
def recorder() -> Callable[..., Any]:
    """Makes an LM that keeps its requests and answers what `answer(doc_id, doc)` says."""
    from lm_eval.api.model import LM

    class Recorder(LM):
        tokenizer_name = "recorder"

        def __init__(self, answer: Callable[[int, dict[str, Any]], str]) -> None:
            super().__init__()
            self.answer = answer
            self.requests: list[Any] = []

        def generate_until(self, requests: list[Any]) -> list[str]:
            self.requests += requests
            return [self.answer(request.doc_id, request.doc) for request in requests]

        def apply_chat_template(
            self, history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            return chat(history, add_generation_prompt)

        def chat_template(self, name: bool | str = False) -> str:
            return "template"

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            raise NotImplementedError

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise NotImplementedError

    return Recorder


def evaluate(lm: Any, tasks: list[str], **kwargs: Any) -> dict[str, Any]:
    """lm-eval's own entry, with our folder alone."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from midalign.tasks import tasks_dir

    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    return lm_eval.simple_evaluate(
        lm, tasks=tasks, task_manager=manager, bootstrap_iters=0, log_samples=True, **kwargs
    )


def test_groups_expand_to_their_tasks_once_and_in_order() -> None:
    mini = harness.expand(["midalign_mini_slot"])
    assert mini == [f"midalign_mini_slot_{code}" for code, row in languages().items() if row.codes["mini"]]
    assert len(mini) == 10
    assert harness.expand(["midalign_mini_slot_ja", "midalign_mini_slot"]) == [
        "midalign_mini_slot_ja",
        *(name for name in mini if name != "midalign_mini_slot_ja"),
    ]
    for group in ("midalign_slot", "midalign_slot_bare"):
        names = harness.expand([group])
        assert len(names) == len(set(names)) == 52
        assert {f"{group}_zh_cn", f"{group}_zh_tw", f"{group}_sw"} <= set(names)


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(TaskError, match=r"midalign_slot_sww.*Did you mean midalign_slot_sw"):
        harness.expand(["midalign_slot_sww"])
    with pytest.raises(TaskError, match=r"Groups: .*midalign_slot_bare"):
        harness.expand(["hellaswag"])


def test_metadata_needs_no_lm_eval() -> None:
    assert harness.metadata("midalign_slot_bare_zh_tw") == {
        "version": 2,
        "family": "slot",
        "source": "massive",
        "language": "zh_tw",
    }


def test_every_file_is_named_after_its_task_and_its_language() -> None:
    for name in harness.expand(["midalign_slot", "midalign_slot_bare", "midalign_mini_slot"]):
        data = harness.metadata(name)
        assert name.endswith("_" + data["language"])
        assert languages()[data["language"]].codes[data["source"]]


def test_load_gives_tasks_by_name_in_the_order_asked() -> None:
    names = ["midalign_mini_slot_ja", "midalign_mini_slot_en"]
    tasks = harness.load_tasks(names)
    assert list(tasks) == names
    assert [tasks[name].config.task for name in names] == names
    assert [len(tasks[name].eval_docs) for name in names] == [300, 300]


def test_loading_is_quiet_about_options_that_our_data_does_not_take(caplog: pytest.LogCaptureFixture) -> None:
    harness.load_tasks(["midalign_mini_slot_en"])
    assert "Custom kwargs" not in caplog.text


def test_prompts_read_as_intended() -> None:
    task = harness.load_tasks(["midalign_mini_slot_en"])["midalign_mini_slot_en"]
    docs = [
        {"utterance": "wake me at nine", "target": "time: nine"},
        {"utterance": "play Jazz", "target": "genre: Jazz"},
    ]
    task.sampler.df = docs[1:]
    ask = "Utterance: wake me at nine\nSlots:"
    shot = "Utterance: play Jazz\nSlots:"
    assert harness.prompt(task, docs[0]) == INSTRUCTION + ask
    assert harness.prompt(task, docs[0], num_fewshot=1) == f"{INSTRUCTION}{shot} genre: Jazz\n\n{ask}"
    assert harness.prompt(task, docs[0], system_instruction="Be brief.") == f"Be brief.\n\n{INSTRUCTION}{ask}"
    assert (
        harness.prompt(task, docs[0], apply_chat_template=chat)
        == f"<system>{INSTRUCTION}</><user>{ask}</><assistant>"
    )
    assert harness.prompt(
        task, docs[0], apply_chat_template=chat, num_fewshot=1, system_instruction="Be brief."
    ) == (
        f"<system>Be brief.\n\n{INSTRUCTION}</><user>{shot}</><assistant>genre: Jazz</>"
        f"<user>{ask}</><assistant>"
    )


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bare task over the mini benchmark's items: MASSIVE may not be here."""
    from midalign.data import massive, mini

    monkeypatch.setattr(massive, "items", mini.items)
    return harness.load_tasks(["midalign_slot_bare_en"])["midalign_slot_bare_en"]


def test_bare_prompts_are_the_papers(bare: Any) -> None:
    docs = [
        {"utterance": "wake me at nine", "target": "time: nine"},
        {"utterance": "play Jazz", "target": "genre: Jazz"},
    ]
    bare.sampler.df = docs[1:]
    assert (
        harness.prompt(bare, docs[0], apply_chat_template=chat, system_instruction="Extract the slots.")
        == "<system>Extract the slots.</><user>wake me at nine</><assistant>"
    )
    assert harness.prompt(bare, docs[0], apply_chat_template=chat) == "<user>wake me at nine</><assistant>"
    assert harness.prompt(
        bare, docs[0], apply_chat_template=chat, num_fewshot=1, system_instruction="Extract the slots."
    ) == (
        "<system>Extract the slots.</><user>play Jazz</><assistant>genre: Jazz</>"
        "<user>wake me at nine</><assistant>"
    )
    # Without a chat template a line break parts question and answer. It ends an answer too, so the prompt has
    # it, or nothing is left of an answer that begins with it.
    assert harness.prompt(bare, docs[0], num_fewshot=1) == "play Jazz\ngenre: Jazz\n\nwake me at nine\n"
    assert harness.prompt(bare, docs[0]) == "wake me at nine\n"
    assert bare.config.generation_kwargs["until"] == ["\n"]


@pytest.mark.parametrize(
    ("shots", "template", "system"),
    [(0, False, None), (3, False, "Be brief."), (0, True, "Be brief."), (3, True, None)],
)
def test_a_prompt_is_what_lm_eval_sends(
    recorder: Callable[..., Any], shots: int, template: bool, system: str | None
) -> None:
    lm = recorder(lambda *_: "None")
    name = "midalign_mini_slot_ja"
    # Through lm-eval's defaults: nobody says fewshot_as_multiturn here.
    evaluate(lm, [name], limit=4, num_fewshot=shots, apply_chat_template=template, system_instruction=system)
    task = harness.load_tasks([name])[name]
    assert [request.args[0] for request in lm.requests] == [
        harness.prompt(
            task,
            request.doc,
            apply_chat_template=chat if template else None,
            system_instruction=system,
            num_fewshot=shots,
        )
        for request in lm.requests
    ]
    assert lm.requests[0].args[1]["until"] == ["\n"]
    assert lm.requests[0].args[1]["do_sample"] is False


def test_shots_are_the_same_for_every_document_and_stand_in_train(recorder: Callable[..., Any]) -> None:
    from midalign.data import mini

    lm = recorder(lambda *_: "None")
    evaluate(lm, ["midalign_mini_slot_en"], limit=5, num_fewshot=4)
    heads = {request.args[0].rpartition("\n\n")[0] for request in lm.requests}
    assert len(heads) == 1  # else nothing is cached
    shots = heads.pop().split("\n\n")[1:]
    train = {f"Utterance: {i.utterance}\nSlots: {slot.target(i.slots)}" for i in mini.items("en", "train")}
    assert len(shots) == len(set(shots)) == 4
    assert set(shots) <= train


def answer(doc_id: int, doc: dict[str, Any]) -> str:
    """Right, silent, half right or nonsense; worse in Japanese, so that the languages differ."""
    kind = (doc_id + (doc["language"] == "ja")) % (4 if doc["language"] == "ja" else 7)
    right = str(doc["target"])
    return ["None", right.split("; ")[0], "i cannot, sorry", right.upper(), right, right, right][kind]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's group of two of our tasks, as the generated ones are written."""
    folder = tmp_path_factory.mktemp("tasks")
    metrics = "".join(f"  - {{metric: {m}, aggregation: mean, weight_by_size: false}}\n" for m in METRICS)
    (folder / "two.yaml").write_text(
        "group: two\ntask: [midalign_mini_slot_en, midalign_mini_slot_ja]\naggregate_metric_list:\n"
        f"{metrics}metadata: {{version: 1}}\n"
    )
    return folder


def test_lm_eval_prints_our_metrics_and_their_errors(recorder: Callable[..., Any], group: Path) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    from midalign.tasks import tasks_dir

    manager = TaskManager(include_path=[str(tasks_dir()), str(group)], include_defaults=False)
    lm = recorder(answer)
    results = lm_eval.simple_evaluate(lm, tasks=["two"], task_manager=manager, log_samples=True)
    tasks = {name: results["results"][name] for name in ("midalign_mini_slot_en", "midalign_mini_slot_ja")}

    for name, found in tasks.items():
        docs = [sample["doc"] for sample in sorted(results["samples"][name], key=lambda s: s["doc_id"])]
        counts = np.array([slot.counts(doc, answer(i, doc)) for i, doc in enumerate(docs)])
        assert counts.shape == (300, len(COLUMNS))
        for metric, rate in METRICS.items():
            assert found[f"{metric},none"] == pytest.approx(float(rate(counts.sum(0))))
            assert found[f"{metric}_stderr,none"] == pytest.approx(bootstrap.stderr(counts, rate))
            assert 0 <= found[f"{metric},none"] <= 1
        ours = [key for key in found if key.split(",")[0] in METRICS]
        assert ours[0] == "slot_f1,none"
    english, japanese = tasks.values()
    assert english["slot_f1,none"] > japanese["slot_f1,none"] > 0.1

    whole = results["groups"]["two"]
    for metric in METRICS:
        key, error = f"{metric},none", f"{metric}_stderr,none"
        assert whole[key] == pytest.approx((english[key] + japanese[key]) / 2)
        assert whole[error] == pytest.approx((english[error] ** 2 + japanese[error] ** 2) ** 0.5 / 2)

    table = make_table(results)
    rows = {
        (cells[1].strip(), cells[5].strip()): cells
        for cells in (line.split("|") for line in table.splitlines())
        if len(cells) > 9
    }
    printed = next(cells for (_, metric), cells in rows.items() if metric == "slot_f1")
    assert printed[8].strip() == "±"
    assert float(printed[9]) > 0
    assert "N/A" not in table
    assert "_stderr" not in table


def test_the_groups_are_macro_means_of_all_their_languages() -> None:
    import yaml

    from midalign.tasks import tasks_dir

    groups = {name: METRICS for name in ("midalign_slot", "midalign_slot_bare", "midalign_mini_slot")}
    for name, expected in {**groups, "midalign_slot_xsid": slot_spans.METRICS}.items():
        file = next(tasks_dir().rglob(f"{name}.yaml"))
        content = yaml.safe_load(file.read_text("utf-8"))
        metrics = content["aggregate_metric_list"]
        assert [m["metric"] for m in metrics] == list(expected)
        assert all(m["aggregation"] == "mean" and m["weight_by_size"] is False for m in metrics)
