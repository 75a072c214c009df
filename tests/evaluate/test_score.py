"""`midalign score`: outputs made elsewhere, the same code, clear refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from midalign import harness, record
from midalign.data import mini
from midalign.errors import DataError, RecordError, TaskError
from midalign.evaluate.score import score
from midalign.families import slot, translation
from midalign.leaderboard.load import load_runs
from midalign.metrics.slot import METRICS

TASK = "midalign_mini_slot_fr"
ROOT = Path(__file__).parents[2]


def write(path: Path, outputs: list[str]) -> Path:
    lines = [json.dumps({"doc_id": i, "output": text}, ensure_ascii=False) for i, text in enumerate(outputs)]
    path.write_text("\n".join(reversed(lines)) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def targets() -> list[str]:
    return [slot.target(item.slots) for item in mini.items("fr", "test")]


def test_right_answers_have_the_best_scores(tmp_path: Path, targets: list[str]) -> None:
    entry, path = score(TASK, write(tmp_path / "api.jsonl", targets), "test", tmp_path / "out")
    metrics = entry.tasks[TASK].metrics
    assert {metrics[name].value for name in ("slot_f1", "label_f1", "value_f1", "exact_match")} == {1.0}
    assert metrics["values_not_in_utterance"].value == 0.0
    assert path == tmp_path / "out" / f"api-{TASK}.json"
    back = record.read_record(path)
    assert (back.arm, back.engine.name, back.base.digest) == ("external", "external", None)
    assert back.tasks[TASK].data_digest == mini.digest("fr", "test")
    assert record.read_items(path)[TASK].counts.shape[0] == len(targets) == 300


def test_outputs_of_other_names_folders_and_splits_keep_their_records(
    tmp_path: Path, targets: list[str]
) -> None:
    results = tmp_path / "out"
    answers = [slot.target(item.slots) for item in mini.items("fr", "validation")]
    named = [tmp_path / name for name in ("ответы.jsonl", "выходы.jsonl", "api.jsonl")]
    paths = [score(TASK, write(path, targets), "test", results)[1] for path in named]
    paths.append(score(TASK, write(tmp_path / "api.jsonl", answers), "validation", results)[1])
    assert len(set(paths)) == len(list(results.glob("*.json"))) == 4
    assert paths[2].name == f"api-{TASK}.json"
    (tmp_path / "other").mkdir()
    before = paths[2].read_bytes()
    with pytest.raises(
        RecordError, match=r"api-midalign_mini_slot_fr\.json is a result under other.*sha256.*rm "
    ):
        score(TASK, write(tmp_path / "other" / "api.jsonl", ["junk", *targets[1:]]), "test", results)
    assert paths[2].read_bytes() == before
    # The same outputs once more are a newer result of the same model.
    assert score(TASK, write(tmp_path / "other" / "api.jsonl", targets), "test", results)[1] == paths[2]
    assert paths[2].read_bytes() != before


def test_a_scored_translation_is_read_by_the_board(tmp_path: Path) -> None:
    """Its role is that of a direction."""
    task = "midalign_mini_mt_en-fr"
    docs = translation.dataset(**harness.metadata(task))["test"]
    _, path = score(task, write(tmp_path / "api.jsonl", [doc["target"] for doc in docs]), "test", tmp_path)
    assert load_runs(path.parent)[0].languages == ["en-fr"]


def test_other_splits(tmp_path: Path) -> None:
    answers = [slot.target(item.slots) for item in mini.items("fr", "validation")]
    entry, _ = score(TASK, write(tmp_path / "a.jsonl", answers), "validation", tmp_path)
    assert entry.sample.split == "validation"
    assert entry.tasks[TASK].n == 150
    with pytest.raises(TaskError, match="No split 'dev'"):
        score(TASK, tmp_path / "a.jsonl", "dev", tmp_path)


def test_a_group_is_refused_with_a_task_to_take(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="--task midalign_mini_slot_de"):
        score("midalign_mini_slot", tmp_path / "a.jsonl", "test", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-3], r"lacks 3 of 300 documents: doc_id 297, 298, 299\."),
        (lambda lines: [*lines, lines[7]], "line 301: doc_id 7 stands there twice"),
        (lambda lines: [*lines, '{"doc_id": 300, "output": ""}'], "line 301: doc_id 300 does not exist"),
        (lambda lines: ['{"doc_id": -1, "output": ""}', *lines], "line 1: doc_id -1 does not exist"),
        (lambda lines: ["[]", *lines], "line 1: found"),
        (lambda lines: ["not json", *lines], "line 1: found 'not json', expected"),
        (lambda lines: ['{"doc_id": "0", "output": ""}', *lines[1:]], "line 1: found"),
        (lambda lines: ['{"doc_id": true, "output": ""}', *lines[1:]], "line 1: found"),
        (lambda lines: ['{"doc_id": 0, "output": null}', *lines[1:]], "line 1: found"),
        (lambda lines: [], "lacks 300 of 300"),
    ],
)
def test_malformed_files(tmp_path: Path, targets: list[str], change, message: str) -> None:
    lines = [json.dumps({"doc_id": i, "output": text}) for i, text in enumerate(targets)]
    file = tmp_path / "outputs.jsonl"
    file.write_text("\n".join(change(lines)))
    with pytest.raises(DataError, match=message):
        score(TASK, file, "test", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        score(TASK, tmp_path / "none.jsonl", "test", tmp_path)


def test_json_on_the_command_line_without_torch(tmp_path: Path, targets: list[str]) -> None:
    answers = ["None", "junk", *targets[2:]]
    file = write(tmp_path / "outputs.jsonl", answers)
    code = (
        "import atexit, sys; from midalign.cli import main; "
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "score", "--task", TASK, "--outputs", file, "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == "False\n"
    printed = json.loads(done.stdout)
    assert printed["task"] == TASK
    assert printed["n"] == 300
    assert set(printed["metrics"]) == set(METRICS)
    assert 0.9 < printed["metrics"]["slot_f1"]["value"] < 1.0
    assert printed["metrics"]["slot_f1"]["stderr"] > 0
    assert (tmp_path / "results" / f"outputs-{TASK}.json").is_file()
