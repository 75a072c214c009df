"""No item sees its own text among the examples of its prompt."""

import json
from pathlib import Path

import pytest

from midalign import harness
from midalign.data import mini
from midalign.errors import TaskError
from midalign.evaluate.plan import configure_tasks
from midalign.evaluate.settings import EvalSettings

ROWS = {
    "slot": ({"language": "de", "utterance": "{}", "slots": []}, "Utterance: {}\n"),
    "translation": ({"language": "en-de", "source": "{}", "target": "auf {}"}, "{}\n"),
    "structured": ({"language": "de", "text": "{}", "entities": []}, "{}\n"),
}


def own_task(family: str, folder: Path, train: list[str], test: list[str]) -> str:
    row = json.dumps(ROWS[family][0])
    lines = [
        row.replace("{}", text).replace("{", f'{{"split": "{split}", ', 1)
        for split, texts in (("train", train), ("test", test))
        for text in texts
    ]
    (folder / "own.jsonl").write_text("\n".join(lines))
    (name,) = harness.expand([f"{family}:{folder / 'own.jsonl'}"])
    return name


@pytest.mark.parametrize("family", ROWS)
def test_an_item_that_was_trained_on_does_not_see_itself(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    train = ["um neun", "um zehn", "um elf"]
    name = own_task(family, tmp_path, train, ["Um  zehn", "um zwei"])
    task = harness.load_tasks([name])[name]
    known, new = task.eval_docs
    told = harness.prompt(task, known, num_fewshot=2)
    assert "um neun" in told
    assert "um elf" in told
    assert "um zehn" not in told
    # Items that stand in no pool see the same examples, so that engines compute them once.
    usual = harness.prompt(task, new, num_fewshot=3)
    assert all(text in usual for text in train)
    with pytest.raises(TaskError, match="has 2 few-shot examples that differ from its own text, not 3"):
        harness.prompt(task, known, num_fewshot=3)


def test_examples_out_of_the_evaluated_split_are_other_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with xSID, FLORES and EWT under --split validation."""
    monkeypatch.setattr(mini, "SHOT_SPLIT", "validation")
    name = "midalign_mini_slot_en"
    tasks = harness.load_tasks([name])
    settings = EvalSettings(
        base="mini", tasks=(name,), output=Path("unused"), split="validation", num_fewshot=5
    )
    configure_tasks(tasks, settings)
    task = tasks[name]
    docs = list(task.eval_docs)
    assert len(docs) == 150
    pool = {doc["utterance"] for doc in task.sampler.df}
    assert pool <= {doc["utterance"] for doc in docs}
    prompts = {doc["id"]: harness.prompt(task, doc, num_fewshot=5) for doc in docs}
    assert all(prompts[doc["id"]].count(f"Utterance: {doc['utterance']}\n") == 1 for doc in docs)
    assert len({prompt.rpartition("Utterance: ")[0] for prompt in prompts.values()}) == 6
