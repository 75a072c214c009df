"""Further wordings of the tasks' prompts."""

import json
import os
import subprocess
import sys

import pytest

from midalign import harness, record
from midalign.errors import TaskError
from midalign.evaluate.plan import configure_tasks
from midalign.evaluate.settings import EvalSettings
from midalign.evaluate.wordings import NUMBERS, task_wordings

ONE_PER_PROMPT = ("midalign_mini_slot_de", "midalign_mini_mt_en-de", "midalign_mini_json_de")


def prompts(name, wording, tmp_path, num_fewshot=0):
    tasks = harness.load_tasks([name])
    configure_tasks(tasks, EvalSettings("mini", (name,), tmp_path, wording=wording, num_fewshot=num_fewshot))
    task = tasks[name]
    return [harness.prompt(task, doc, num_fewshot=num_fewshot) for doc in task.eval_docs], list(
        task.eval_docs
    )


@pytest.mark.parametrize("name", ONE_PER_PROMPT)
def test_each_wording_has_the_item_and_words_of_its_own(name, tmp_path):
    rendered = {number: prompts(name, number, tmp_path)[0] for number in NUMBERS}
    _, docs = prompts(name, 1, tmp_path)
    text = "source" if "mt" in name else "utterance"
    for number in NUMBERS:
        assert len(set(rendered[number])) > len(docs) / 2
        for prompt, doc in zip(rendered[number], docs, strict=True):
            assert prompt.count(doc[text]) >= 1
            assert "{{" not in prompt
            assert not prompt[-1].isspace()  # the delimiter of the answer follows
    for first, second, third in zip(*rendered.values(), strict=True):
        assert len({first, second, third}) == 3


def test_few_shot_examples_have_the_wording_too(tmp_path):
    (first, *_), _ = prompts("midalign_mini_slot_de", 2, tmp_path, num_fewshot=2)
    assert first.count("Sentence: ") == 3
    assert "Utterance: " not in first


def test_every_task_but_those_without_words_has_further_wordings():
    names = harness.expand(["midalign_slot", "midalign_slot_xsid", "midalign_mt", "midalign_json"])
    for name in names:
        for wording in task_wordings(name):
            assert wording.doc_to_text
            assert wording.description + wording.doc_to_text != harness.prompt_template(name)
    (bare, *_) = harness.expand(["midalign_slot_bare"])
    with pytest.raises(TaskError, match=f"{bare} has no further wordings"):
        task_wordings(bare)


@pytest.mark.parametrize("number", [0, 4, "2"])
def test_unknown_wordings_are_rejected(number, tmp_path):
    with pytest.raises(TaskError, match="expected 1, 2 or 3"):
        prompts("midalign_mini_slot_de", number, tmp_path)


def test_a_wording_names_all_that_the_first_one_names():
    """JSON keys, labels and the words for no slots decide whether an answer is right."""
    for name, needed in {
        "midalign_mini_slot_de": ["slot: value", ";", "None"],
        "midalign_json_uner_en_ewt": ['"entities"', '"type"', '"text"', "PER", "ORG", "LOC"],
        "midalign_mini_json_de": ['"name": intent', '"arguments"', '"slot": slot', '"value"'],
        "midalign_mini_mt_en-de": ["{{source}}", "{{source_name}}", "{{target_name}}"],
    }.items():
        for wording in task_wordings(name):
            assert all(part in wording.description + wording.doc_to_text for part in needed)


def midalign(*words, cwd):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "midalign", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_wordings_have_records_of_their_own_and_a_table_of_the_spread(tmp_path):
    evaluated = ["eval", "--base", "mini", "--tasks", "midalign_mini_slot_de", "--limit", 10]
    for number in (1, 2):
        done = midalign(*evaluated, "--wording", number, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    first, second = (
        record.read_record(tmp_path / "results" / name) for name in ("mini.json", "mini-wording2.json")
    )
    assert (first.wording, second.wording) == (1, 2)
    assert "wording" not in first.decoding
    task = "midalign_mini_slot_de"
    assert first.tasks[task].prompt_digest != second.tasks[task].prompt_digest

    done = midalign("leaderboard", "build", "--output", "board", "--results", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    board = (tmp_path / "board" / "README.md").read_text()
    assert "under other wordings of the prompts" in board
    assert "(seed 0), wording 2\n" in board
    scores = [entry.tasks[task].metrics["slot_f1"].value for entry in (first, second)]
    spread = f"{100 * (max(scores) - min(scores)):.1f}"
    cells = " | ".join(f"{100 * score:.1f}" for score in scores)
    assert f"| base | all | {cells} | {spread} |" in board
    assert len(json.loads((tmp_path / "board" / "leaderboard.json").read_text())["sections"]) == 2

    check = midalign("leaderboard", "check", "results/mini-wording2.json", cwd=tmp_path)
    assert check.returncode == 0, check.stdout + check.stderr
    assert "rendered here" not in check.stdout
