"""`--comet` through the front door: COMET's own scores, none of them computed twice, clear refusals."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from midalign_command import start
from tiny_models import make_adapter, make_base

from midalign import record
from midalign.data import mini
from midalign.errors import TaskError
from midalign.evaluate.comet import scores, worker

pytestmark = pytest.mark.slow

EN_HI = "midalign_mini_mt_en-hi"
Run = Callable[..., "object"]


def write(path: Path, outputs: Sequence[str]) -> Path:
    lines = [json.dumps({"doc_id": i, "output": text}) for i, text in enumerate(outputs)]
    path.write_text("\n".join(lines), "utf-8")
    return path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Answers in English and Hindi: right, another segment's, untranslated, empty, with a second line."""
    segments = mini.read("en-hi", "test")
    texts = [one.target for one in segments]
    texts[1::5] = [one.source for one in segments[1::5]]
    texts[2::5] = [one.target for one in reversed(segments[2::5])]
    texts[3::50] = [""] * len(texts[3::50])
    texts[4::50] = [f" {text} \nand more" for text in texts[4::50]]
    return write(tmp_path / "outputs.jsonl", texts)


def expected(outputs: Path) -> list[tuple[str, str, str]]:
    answers = [json.loads(line)["output"].strip().split("\n")[0].strip() for line in outputs.open()]
    gold = mini.read("en-hi", "test")
    return [(one.source, answer, one.target) for one, answer in zip(gold, answers, strict=True)]


def database(user: Mapping[str, str]) -> Path:
    (file,) = Path(user["MIDALIGN_CACHE"], "comet").glob("*.sqlite")
    return file


def test_scores_are_comets_own(
    midalign: Run, predict: Callable, comet_model: Path, outputs: Path, tmp_path: Path
) -> None:
    command = ("score", "--task", EN_HI, "--outputs", outputs, "--output", tmp_path, "--json", "--comet")
    printed = json.loads(midalign(*command, comet_model).stdout)["metrics"]["comet"]
    path = tmp_path / f"outputs-{EN_HI}.json"
    (task,), (items,) = record.read_record(path).tasks.values(), record.read_items(path).values()
    own = np.array(predict(comet_model, expected(outputs)))
    assert own.std() > 0.01, "a model that tells segments apart"
    assert np.abs(items.comet / 1e6 - own).max() < 2e-6
    assert task.comet.value == pytest.approx(own.mean(), abs=1e-6)
    assert task.comet.stderr == pytest.approx(own.std() / len(own) ** 0.5, rel=0.1)
    assert (task.comet.name, task.comet.version, task.comet.n) == ("tiny-comet", "2.2.7", 300)
    assert printed == {"value": task.comet.value, "stderr": task.comet.stderr}
    # Its checkpoint by name is the same model, and what is known is not scored again.
    file = comet_model / "checkpoints" / "model.ckpt"
    again = json.loads(midalign(*command, file).stdout)["metrics"]["comet"]
    assert again == printed
    assert record.read_record(path).tasks[EN_HI].comet == task.comet


def test_a_killed_process_goes_on_from_what_it_had(
    midalign: Run, user: Mapping[str, str], make_model: Callable, outputs: Path, tmp_path: Path
) -> None:
    slow = make_model("slow-comet", 256, 6)
    command = ("score", "--task", EN_HI, "--outputs", outputs, "--comet", slow, "--output")
    process = start(*command, tmp_path / "results", env=dict(user))
    kept = wait_for_rows(user, process)
    (child,) = children(process.pid)
    os.kill(child, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "COMET's process ended by itself (SIGKILL" in err
    assert not (tmp_path / "results").exists()
    with closing(sqlite3.connect(database(user))) as file, file:
        assert kept <= file.execute("select count(*) from scores").fetchone()[0] < 300
        # Marked, so that one sees where it comes from.
        file.execute("update scores set millionths = 7000000")
        marked = file.execute("select count(*) from scores").fetchone()[0]
    midalign(*command, tmp_path / "results")
    (items,) = record.read_items(tmp_path / "results" / f"outputs-{EN_HI}.json").values()
    once = len(set(expected(outputs)))
    with closing(sqlite3.connect(database(user))) as file:
        assert file.execute("select count(*) from scores").fetchone()[0] == once
    assert marked <= (items.comet == 7_000_000).sum() < 300


def wait_for_rows(user: Mapping[str, str], process: "object") -> int:
    """Until the first batch is kept."""
    for _ in range(3000):
        assert process.poll() is None, process.communicate()
        files = list(Path(user["MIDALIGN_CACHE"]).glob("comet/*.sqlite"))
        if files:
            with closing(sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True)) as file:
                try:
                    rows = file.execute("select count(*) from scores").fetchone()[0]
                except sqlite3.OperationalError:  # not made yet, or locked
                    rows = 0
            if rows:
                return rows
        time.sleep(0.01)
    raise AssertionError("nothing was scored in half a minute")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_evaluation_of_a_base_and_an_adapter(
    midalign: Run, predict: Callable, comet_model: Path, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "tiny")
    adapter = make_adapter(tmp_path / "adapter", base)
    tasks = ("midalign_mini_mt_de-en", "midalign_mini_mt_en-ja")
    done = midalign(
        *("eval", "--base", base, "--adapter", adapter, "--tasks", ",".join(tasks), "--limit", 5),
        *("--output", tmp_path / "results", "--log-samples", "--comet", comet_model),
    )
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.stem for path in paths] == ["tiny", "adapter"]
    segments, found = [], []
    for path in paths:
        entry, items = record.read_record(path), record.read_items(path)
        answers = {(line["task"], line["doc_id"]): line["output"] for line in logged(path)}
        for task in tasks:
            gold = mini.read(task.removeprefix("midalign_mini_mt_"), "test")
            ids = items[task].doc_ids.tolist()
            assert ids != list(range(5)), "a sample, so that a position is no id"
            for i in ids:
                answer = answers[task, i].strip().split("\n")[0].strip()
                segments.append((gold[i].source, answer, gold[i].target))
            found += items[task].comet.tolist()
            assert entry.tasks[task].comet.value == pytest.approx(items[task].comet.mean() / 1e6)
    assert np.abs(np.array(found) / 1e6 - predict(comet_model, segments)).max() < 2e-6
    assert not (tmp_path / "results" / ".partial").exists()


def logged(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.with_suffix(".outputs.jsonl").open()]


def test_what_is_wrong_with_comet_is_said_before_anything_is_generated(
    midalign: Run, comet_model: Path, tmp_path: Path
) -> None:
    (comet_model.parent / "no-encoder").mkdir()
    broken = tmp_path / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    (broken / "checkpoints" / "model.ckpt").write_bytes(b"PK cut")
    command = ("eval", "--base", "mini", "--tasks", EN_HI, "--limit", 2, "--output", tmp_path / "results")
    refused = {
        "Unbabel/wmt22-comet-da": f"not in the hub's cache ({tmp_path / 'hub' / 'hub'})",
        "wmt22-comet-da": "neither a checkpoint file nor a folder here, nor a hub id",
        str(tmp_path / "hub-of-mine"): "neither a checkpoint file nor a folder here",
        str(comet_model.parent / "no-encoder"): "has 0 files checkpoints/*.ckpt, expected one",
        str(broken): f"{broken / 'hparams.yaml'} is missing",
    }
    for name, message in refused.items():
        assert message in midalign(*command, "--comet", name, status=1).stderr
    (broken / "hparams.yaml").write_bytes((comet_model / "hparams.yaml").read_bytes())
    assert "cannot be loaded" in midalign(*command, "--comet", broken, status=1).stderr
    none = midalign(*command, "--comet", comet_model, status=1, MIDALIGN_COMET=str(tmp_path / "none")).stderr
    assert none.rstrip().endswith("midalign comet setup")
    assert str(tmp_path / "none") in none
    assert not (tmp_path / "results").exists()


def test_scores_that_are_no_numbers_are_no_scores(
    midalign: Run, comet_python: Path, make_model: Callable, user: Mapping[str, str], tmp_path: Path
) -> None:
    model = make_model("diverged", 16, 1)
    code = (
        "import sys, torch; file = sys.argv[1]; saved = torch.load(file, weights_only=False); "
        "[tensor.fill_(float('nan')) for name, tensor in saved['state_dict'].items() "
        "if 'estimator' in name]; "
        "torch.save(saved, file)"
    )
    subprocess.run([comet_python, "-I", "-c", code, model / "checkpoints" / "model.ckpt"], check=True)
    command = ("eval", "--base", "mini", "--tasks", EN_HI, "--limit", 2, "--output", tmp_path / "results")
    assert "diverged: expected 1 numbers, got [nan]" in midalign(*command, "--comet", model, status=1).stderr
    assert not (tmp_path / "results").exists()


def test_a_damaged_cache_is_named(
    midalign: Run, user: Mapping[str, str], comet_model: Path, outputs: Path, tmp_path: Path
) -> None:
    digest = worker.checkpoint_digest(comet_model / "checkpoints" / "model.ckpt")
    file = Path(user["MIDALIGN_CACHE"], "comet", f"{digest[:16]}-2.2.7.sqlite")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not a database" * 1000)
    command = ("score", "--task", EN_HI, "--outputs", outputs, "--output", tmp_path, "--comet", comet_model)
    assert f"{file}, the cache of COMET's scores" in midalign(*command, status=1).stderr


class TestDirections:
    """Languages that XLM-R was not trained on, by the languages' table."""

    def test_a_direction_by_its_own_name_is_refused(self) -> None:
        with pytest.raises(TaskError, match=r"en-bo \(Tibetan\); midalign_mt_ntrex_ee-en \(Ewe\)"):
            scores.comet_directions(
                ["midalign_mt_wmt23", "midalign_mt_ntrex_en-bo", "midalign_mt_ntrex_ee-en"]
            )

    def test_in_a_group_it_is_left_out_and_named(self, caplog: pytest.LogCaptureFixture) -> None:
        covered = scores.comet_directions(["midalign_mt_ntrex"], warn=True)
        assert "midalign_mt_ntrex_en-sw" in covered
        assert "midalign_mt_ntrex_en-bo" not in covered
        assert "midalign_mt_ntrex_bo-en" not in covered
        (warning,) = caplog.messages
        assert warning.startswith(f"No COMET score for {248 - len(covered)} of 248 directions")
        assert "midalign_mt_ntrex_en-bo" in warning

    def test_other_families_are_refused(self) -> None:
        with pytest.raises(TaskError, match="midalign_mini_slot_en is not"):
            scores.comet_directions([EN_HI, "midalign_mini_slot_en"])
