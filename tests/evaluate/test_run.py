"""`midalign eval` through the front door, on a tiny random model and the bundled mini benchmark."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_models import make_adapter, make_adapter_of
from transformers import AutoTokenizer
from zstandard import ZstdDecompressor

from midalign import adapter as adapters
from midalign import bases, guard, harness, record
from midalign.data import mini
from midalign.data.overlap import OverlapCheck
from midalign.errors import RecordError
from midalign.evaluate import publish, retrieval, roles, run
from midalign.evaluate.answer_limits import answer_limit, context_tokens, limit_answers
from midalign.evaluate.hf import MidalignHF
from midalign.evaluate.partial import Output, TaskPart
from midalign.evaluate.plan import EvalPlan, draw_sample
from midalign.evaluate.scoring import group_models, group_tasks
from midalign.evaluate.settings import EvalProgress, EvalSettings, EvaluatedModel, Split
from midalign.families import slot
from midalign.locks import locked
from midalign.metrics import bootstrap
from midalign.metrics.slot import COLUMNS, METRICS, parse_slots
from midalign.record.outputs import read_saved_outputs
from midalign.tasks import tasks_dir

ROOT = Path(__file__).parents[2]
EN, DE, SOME = "midalign_mini_slot_en", "midalign_mini_slot_de", ["en", "de", "es"]
TASKS = ",".join(f"midalign_mini_slot_{code}" for code in SOME)


def start(*arguments: object, **kwargs: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "midalign", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        **kwargs,
    )


def midalign(*arguments: object, status: int = 0, **kwargs: Any) -> "subprocess.CompletedProcess[str]":
    process = start(*arguments, **kwargs)
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return subprocess.CompletedProcess(arguments, status, out, err)


@pytest.mark.parametrize("name", ["midalign_mini_json_hi", "midalign_mini_slot_en", "midalign_mini_mt_en-ja"])
def test_answers_are_limited_to_the_longest_gold_answer_in_the_bases_own_tokens(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    tasks = harness.load_tasks([name])
    limit_answers(tasks, tokenizer, context=1024)
    limit = tasks[name].config.generation_kwargs["max_gen_toks"]
    longest = max(len(tokenizer.encode(doc["target"])) - 1 for doc in tasks[name].eval_docs)  # without BOS
    assert longest < limit <= 1.25 * longest + 17
    assert (
        harness.load_tasks([name])[name].config.generation_kwargs["max_gen_toks"] != limit
    )  # no other run's


def test_an_answer_takes_half_the_context_at_most() -> None:
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    assert context_tokens(bases.resolve("mini")) == 1024
    answers = ["word " * 400]
    tokens = len(tokenizer.encode(answers[0], add_special_tokens=False))
    assert 300 < tokens < 1000
    assert answer_limit(answers, tokenizer, context=512) == 256
    assert answer_limit(answers, tokenizer, context=None) >= 1.25 * tokens


@pytest.fixture(scope="module")
def manifest_adapter(base: Path) -> Path:
    """An adapter with midalign.json, aligned at a layer of its own."""
    folder = make_adapter(base.parent / "with-manifest", base, seed=3)
    manifest = adapters.Manifest(
        name="mini-aligned-seed7",
        arm="aligned",
        seed=7,
        recipe=adapters.RecipeRef(name="mini", digest="a" * 64),
        base=str(base),
        base_digest=adapters.base_digest(str(base)),
        task="midalign_mini_slot",
        supervised=["en", "es"],
        aligned=["de"],
        layer=3,
        pairs="mini",
        updates=1,
        tokens=1,
        seconds=1.0,
        packages={},
        training={"task": 1.0},
    )
    (folder / adapters.MANIFEST).write_text(manifest.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def finished(
    base: Path, adapter: Path, manifest_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The results of one evaluation of a base and two adapters."""
    folder = tmp_path_factory.mktemp("results")
    midalign(
        *("eval", "--base", base, "--adapter", adapter, "--adapter", manifest_adapter),
        *("--tasks", EN, "--tasks", DE, "--limit", 8, "--engine", "hf", "--log-samples"),
        *("--supervised", "en,es", "--aligned", "de", "--note", "random weights", "--output", folder),
    )
    return folder


@pytest.mark.slow
def test_one_record_a_model_with_all_that_it_came_from(
    finished: Path, base: Path, manifest_adapter: Path
) -> None:
    assert not (finished / ".partial").exists()
    names = {path.name.removesuffix(".json") for path in finished.glob("*.json")}
    assert names == {"tiny", "adapter-a", "mini-aligned-seed7"}
    records = {name: record.read_record(finished / f"{name}.json") for name in names}
    for entry in records.values():
        assert list(entry.tasks) == [EN, DE]
        assert entry.base.name == "tiny"
        assert entry.base.note == "random weights"
        assert entry.base.digest == adapters.base_digest(str(base))
        assert (entry.engine.name, entry.sample.limit, entry.sample.seed) == ("hf", 8, 0)
        assert entry.roles == record.Roles(supervised=["en", "es"], aligned=["de"], unseen=[])
        assert entry.tasks[DE].data_digest == mini.digest("de", "test")
        assert {"torch", "lm-eval", "transformers", "midalign"} <= set(entry.packages)
        assert entry.tokens == sum(task.tokens for task in entry.tasks.values()) > 0
        assert entry.retrieval is not None
        assert list(entry.retrieval.accuracy) == ["de"]
    aligned = records["mini-aligned-seed7"]
    assert (aligned.arm, aligned.seed, aligned.recipe) == ("aligned", 7, aligned.adapter.manifest.recipe)
    assert aligned.adapter.digest == adapters.adapter_digest(manifest_adapter)
    assert (records["tiny"].arm, records["tiny"].adapter) == ("base", None)
    assert records["adapter-a"].adapter.manifest is None
    # The one layer of the run's aligned adapters is where all of its models are read.
    layers = {entry.retrieval.layer for entry in records.values()}
    assert layers == {3}
    assert len({entry.retrieval.candidates_digest for entry in records.values()}) == 1
    assert records["tiny"].retrieval.accuracy == aligned.retrieval.base_accuracy
    prompts = {entry.tasks[EN].prompt_digest for entry in records.values()}
    assert len(prompts) == 1


@pytest.mark.slow
def test_figures_follow_from_the_outputs(finished: Path, base: Path) -> None:
    """Prompts are the harness's, and counts, metrics and errors are recomputed from the outputs kept."""
    docs = {name: list(slot.dataset(**harness.metadata(name))["test"]) for name in (EN, DE)}
    tasks = harness.load_tasks([EN, DE])
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name in ("tiny", "adapter-a", "mini-aligned-seed7"):
        entry, items = (
            record.read_record(finished / f"{name}.json"),
            record.read_items(finished / f"{name}.json"),
        )
        lines = [json.loads(line) for line in (finished / f"{name}.outputs.jsonl").read_text().splitlines()]
        for task in (EN, DE):
            kept = [line for line in lines if line["task"] == task]
            assert [line["doc_id"] for line in kept] == draw_sample(300, 8) == items[task].doc_ids.tolist()
            for line in kept:
                assert line["prompt"] == harness.prompt(tasks[task], docs[task][line["doc_id"]])
            counts = np.array([slot.counts(docs[task][line["doc_id"]], line["output"]) for line in kept])
            assert np.array_equal(items[task].counts, counts)
            result = entry.tasks[task]
            assert list(result.counts.items()) == list(zip(COLUMNS, counts.sum(0).tolist(), strict=True))
            assert result.cut_off == sum(line["finish"] == "length" for line in kept)
            gold = tokenizer([doc["target"] for doc in docs[task]], add_special_tokens=False)["input_ids"]
            longest = max(map(len, gold))
            assert longest < result.max_gen_toks <= 1.25 * longest + 17
            assert result.prompts_cut == 0
            for metric, value in result.metrics.items():
                # A random model has no right label, and then span errors have no value.
                score = record.nan_to_none(float(METRICS[metric](counts.sum(0))))
                error = record.nan_to_none(bootstrap.stderr(counts, METRICS[metric]))
                assert value.value == pytest.approx(score)
                assert value.stderr == pytest.approx(error)


@pytest.mark.slow
def test_adapters_without_their_base_have_the_same_records(
    finished: Path, base: Path, adapter: Path, manifest_adapter: Path, tmp_path: Path
) -> None:
    asked = ("eval", "--base", base, "--adapters-only", "--tasks", EN, "--tasks", DE, "--limit", 8)
    asked += ("--engine", "hf", "--supervised", "en,es", "--aligned", "de", "--note", "random weights")
    asked += ("--output", tmp_path)
    midalign(*asked, "--adapter", adapter, "--adapter", manifest_adapter)
    assert {path.name for path in tmp_path.glob("*.json")} == {"adapter-a.json", "mini-aligned-seed7.json"}
    for path in tmp_path.glob("*.json"):
        assert figures(path) == figures(finished / path.name)
    assert "--adapter FOLDER" in midalign(*asked, status=1).stderr


def times(results: Path) -> dict[str, float]:
    """Modification times of finished parts, by model folder and task."""
    try:
        parts = list((results / ".partial").glob("*/midalign_*.json"))
        return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in parts}
    except FileNotFoundError:  # they vanish when the records are written
        return {}


def stop_after(parts: int, results: Path, how: int, *arguments: object) -> tuple[int, dict[str, float], str]:
    """Start an evaluation, send it a signal once so many tasks are finished, and wait for its end."""
    process = start(*arguments)
    deadline = time.monotonic() + 200
    while len(times(results)) < parts:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    _, err = process.communicate(timeout=100)
    return process.returncode, times(results), err


def figures(path: Path) -> dict[str, Any]:
    """A record without what differs between two runs of the same command."""
    entry = record.read_record(path).model_dump(mode="json", exclude={"created", "seconds"})
    for task in entry["tasks"].values():
        del task["seconds"]
    return entry


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(base: Path, adapter: Path, tmp_path: Path) -> None:
    arguments = ("eval", "--base", base, "--adapter", adapter, "--tasks", TASKS, "--limit", 16)
    results = tmp_path / "killed"
    code, left, _ = stop_after(3, results, signal.SIGKILL, *arguments, "--output", results)
    assert code == -signal.SIGKILL
    assert 3 <= len(left) < 6
    assert not list(results.glob("*.json"))
    again = start(*arguments, "--output", results)
    seen: dict[str, float] = {}
    while again.poll() is None:
        seen |= times(results)
        time.sleep(0.005)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert {name: seen[name] for name in left} == left  # nothing finished was done again
    done_again = [line for line in err.splitlines() if "midalign_mini_slot" in line]
    assert len(done_again) == 6 - len(left)
    assert not (results / ".partial").exists()
    midalign(*arguments, "--output", tmp_path / "whole")
    for name in ("tiny.json", "adapter-a.json"):
        assert figures(results / name) == figures(tmp_path / "whole" / name)

    written = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    done = midalign(*arguments, "--output", results)
    assert "midalign_mini_slot" not in done.stderr  # finished models are not asked again
    assert len(done.stdout.splitlines()) == 2
    assert {path: path.stat().st_mtime_ns for path in results.iterdir()} == written
    items = results / record.read_record(results / "tiny.json").items.file
    items.unlink()
    midalign(*arguments, "--output", results)  # what a record counts by item belongs to it
    assert items.is_file()
    midalign(*arguments, "--note", "dequantised", "--output", results)
    assert {record.read_record(path).base.note for path in results.glob("*.json")} == {"dequantised"}
    refused = midalign(*arguments[:-1], 12, "--output", results, status=1)
    assert "tiny.json is a result under other conditions: limit 16, now 12" in refused.stderr


@pytest.mark.slow
def test_two_evaluations_at_once_wait_for_each_other(base: Path, adapter: Path, tmp_path: Path) -> None:
    arguments = ("eval", "--base", base, "--adapter", adapter, "--tasks", f"{EN},{DE}", "--limit", 4)
    with locked(tmp_path / "adapter-a.json"):  # until both are there
        processes = [start(*arguments, "--output", tmp_path) for _ in range(2)]
        for process in processes:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "Waiting" in line)
            assert f"Waiting for process {os.getpid()} on " in said
            assert "adapter-a.json" in said
    answered = 0
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert len(out.splitlines()) == 2
        answered += err.count("midalign_mini_slot")
    assert answered == 2 * 2  # by one of them, and the other finds it done
    for name in ("tiny", "adapter-a"):
        entry = record.read_record(tmp_path / f"{name}.json")
        assert entry.retrieval is not None
        assert list(record.read_items(tmp_path / f"{name}.json")) == [EN, DE]
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".zst"}


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_loses_nothing(base: Path, adapter: Path, tmp_path: Path) -> None:
    arguments = ("eval", "--base", base, "--adapter", adapter, "--tasks", TASKS, "--limit", 32)
    arguments += ("--output", tmp_path)
    code, left, err = stop_after(3, tmp_path, signal.SIGINT, *arguments)
    assert code == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    assert len(left) >= 3
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {
        ".json"
    }  # nothing half-written
    done = midalign(*arguments)
    assert len([line for line in done.stderr.splitlines() if "midalign_mini_slot" in line]) == 6 - len(left)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_two_regimes_have_records_of_their_own_and_share_no_results(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    arguments = ("eval", "--base", base, "--adapter", adapter, "--tasks", TASKS, "--limit", 48)
    arguments += ("--log-samples", "--output", tmp_path)
    # The tasks of a model are answered in one call and kept together.
    code, left, _ = stop_after(3, tmp_path, signal.SIGKILL, *arguments, "--constrained")
    assert code == -signal.SIGKILL
    assert 3 <= len(left) < 6
    free = midalign(*arguments)
    done = [line for line in free.stderr.splitlines() if "midalign_mini_slot" in line]
    assert len(done) == 6  # nothing of the constrained run was taken for one's own
    assert times(tmp_path) == left
    constrained = midalign(*arguments, "--constrained")
    done = [line for line in constrained.stderr.splitlines() if "midalign_mini_slot" in line]
    assert len(done) == 6 - len(left)
    records = {name: record.read_record(tmp_path / f"{name}.json") for name in ("tiny", "tiny-constrained")}
    assert [entry.decoding["regime"] for entry in records.values()] == ["free", "constrained"]
    assert records["tiny"].base == records["tiny-constrained"].base
    lines = (tmp_path / "tiny-constrained.outputs.jsonl").read_text().splitlines()
    outputs = [json.loads(line) for line in lines]
    docs = {name: slot.dataset(**harness.metadata(name))["test"] for name in TASKS.split(",")}
    for name in docs:
        kept = [line for line in outputs if line["task"] == name]
        result = records["tiny-constrained"].tasks[name]
        assert result.cut_off == sum(line["finish"] == "length" for line in kept) < len(kept)
        whole = [line for line in kept if line["finish"] == "stop"]
        counts = [slot.counts(docs[name][line["doc_id"]], line["output"]) for line in whole]
        assert {row[COLUMNS.index("well_formed")] for row in counts} == {1}
        assert {row[COLUMNS.index("values_outside")] for row in counts} == {0}


@pytest.mark.slow
def test_lm_eval_itself_decodes_constrained(base: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "midalign-hf", "--tasks", DE, "--limit", "8"),
            *("--model_args", f"pretrained={base},dtype=float32,constrained=True", "--device", "cpu"),
            *("--include_path", str(tasks_dir()), "--log_samples", "--output_path", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (samples,) = tmp_path.rglob("samples_*.jsonl")
    for line in map(json.loads, samples.read_text().splitlines()):
        answer = line["resps"][0][0].strip()
        assert answer == "None" or parse_slots(answer).pairs[0][0] in mini.labels("slot")
        for _, value in parse_slots(answer).pairs[:-1]:  # the last may be cut off
            assert value in line["doc"]["utterance"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tasks", "midalign_mini_mt", "--constrained"), "any text may be a translation"),
        (("--tasks", "midalign_mini_slt"), "Did you mean midalign_mini_slot"),
        (("--tasks", EN, "--supervised", "enn"), "No language 'enn'"),
        (("--tasks", EN, "--adapter", "nowhere"), "nowhere is not an adapter"),
        (("--tasks", EN, "--base", "/no/such/base"), "/no/such/base"),
    ],
)
def test_what_is_wrong_is_one_screen(
    base: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = midalign(
        *("eval", "--base", base, "--limit", 2, *arguments), "--output", tmp_path / "out", status=1
    )
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_record_of_other_tasks_is_not_written_over(finished: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "results")
    before = (tmp_path / "results" / "tiny.json").read_bytes()
    command = ("eval", "--base", base, "--limit", 8, "--output", tmp_path / "results", "--tasks")
    done = midalign(*command, f"{DE},midalign_mini_slot_fr", status=1)
    assert f"tiny.json is a record of other tasks ({DE}" in done.stderr
    assert (tmp_path / "results" / "tiny.json").read_bytes() == before
    midalign(*command, f"{DE},{EN},midalign_mini_slot_fr")
    assert len(record.read_record(tmp_path / "results" / "tiny.json").tasks) == 3


@pytest.fixture(scope="module")
def two_adapters_of_one_name(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    first, second = (make_adapter(folder / name / "adapter", base, seed=s) for s, name in enumerate("ab"))
    return first, second


@pytest.fixture(scope="module")
def settings(
    base: Path, two_adapters_of_one_name: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> EvalSettings:
    """Those of a finished evaluation of a base and an adapter."""
    results = tmp_path_factory.mktemp("finished")
    done = EvalSettings(
        base=str(base),
        tasks=(EN,),
        output=results,
        adapters=two_adapters_of_one_name[:1],
        engine="hf",
        limit=2,
    )
    run.evaluate_models(done, lambda _: None)
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 3}, "limit 2, now 3"),
        ({"limit": None}, "limit 2, now None"),
        ({"split": "validation"}, "split test, now validation"),
        ({"num_fewshot": 1}, "num_fewshot None, now 1"),
        ({"apply_chat_template": True}, "apply_chat_template None, now True"),
        ({"system_instruction": "Be brief."}, "system_instruction None, now Be brief."),
        ({"tasks": (DE,)}, "a record of other tasks"),
    ],
)
def test_a_finished_record_is_not_replaced_under_other_conditions(
    settings: EvalSettings, change: dict[str, Any], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in settings.output.iterdir()}
    with pytest.raises(RecordError, match=message):
        run.evaluate_models(replace(settings, **change), lambda _: None)
    assert {path.name: path.read_bytes() for path in settings.output.iterdir()} == before


@pytest.mark.slow
def test_another_adapter_of_the_same_name_does_not_take_its_record(
    settings: EvalSettings, two_adapters_of_one_name: tuple[Path, Path]
) -> None:
    first, second = (adapters.adapter_digest(folder)[:12] for folder in two_adapters_of_one_name)
    with pytest.raises(RecordError, match=rf"adapter\.json is .* adapter {first}, now {second}.*rm '"):
        run.evaluate_models(replace(settings, adapters=two_adapters_of_one_name[1:]), lambda _: None)


@pytest.mark.slow
def test_a_base_that_changed_does_not_take_the_record(
    settings: EvalSettings, base: Path, tmp_path: Path
) -> None:
    shutil.copytree(base, tmp_path / base.name)
    config = tmp_path / base.name / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "surprise": 1}))
    changed = replace(settings, base=str(tmp_path / base.name), adapters=())
    with pytest.raises(RecordError, match=r"tiny\.json is a result under other conditions: base "):
        run.evaluate_models(changed, lambda _: None)
    shutil.copy(base / "config.json", config)
    (tmp_path / base.name / "generation_config.json").write_text('{"repetition_penalty": 2.0}')
    adapters.base_digest.cache_clear()
    adapters.tokenizer_digest.cache_clear()
    with pytest.raises(RecordError, match="chat template or generation settings"):
        run.evaluate_models(changed, lambda _: None)


@pytest.mark.slow
def test_overlap_is_checked_at_every_evaluation(
    base: Path, manifest_adapter: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The pairs hold the test split and nothing of the validation split."""
    file = tmp_path / "de.tsv"
    stolen = "".join(f"{item.utterance}\tx{i}\n" for i, item in enumerate(mini.items("de", "test")[:40]))
    file.write_text(stolen)
    folder = shutil.copytree(manifest_adapter, tmp_path / "adapter")
    manifest = adapters.read_manifest(folder)
    assert manifest is not None
    text = guard.training_text("pairs", str(tmp_path / "{language}.tsv"), ["de"])
    (folder / adapters.MANIFEST).write_text(
        manifest.model_copy(update={"trained_on": [text], "overlap": []}).model_dump_json()
    )
    bare = shutil.copytree(manifest_adapter, tmp_path / "bare")
    (bare / adapters.MANIFEST).unlink()

    def evaluate(split: Split, *folders: Path) -> list[OverlapCheck | None]:
        asked = EvalSettings(
            base=str(base),
            tasks=(DE,),
            output=tmp_path / split,
            adapters=folders,
            split=split,
            engine="hf",
            limit=1,
        )
        return [record.read_record(path).overlap for path in run.evaluate_models(asked, answered.append)]

    answered: list[EvalProgress] = []
    of_base, clean = evaluate("validation", folder)
    assert (of_base, clean) == (None, OverlapCheck(found=[], unchecked=[]))
    file.unlink()
    _, gone, foreign = evaluate("test", folder, bare)
    assert gone is not None
    assert foreign is not None
    assert (gone.found, gone.unchecked) == ([], [f"{tmp_path}/{{language}}.tsv (de) is not available"])
    assert foreign.unchecked == ["midalign.json does not name the training text"]
    file.write_text(stolen)
    answered.clear()
    _, found, _ = evaluate("test", folder, bare)  # the finished record gets the check, and nothing else
    assert found is not None
    assert answered == []
    assert [(one.test, one.split, one.exact, one.examples) for one in found.found] == [
        ("mini", "test", 40, ())
    ]
    assert "was trained on text of this evaluation" in caplog.text
    record.read_items(tmp_path / "test" / "mini-aligned-seed7.json")
    file.unlink()
    assert evaluate("test", folder, bare)[1] == found  # and keeps it


def test_an_overlap_check_gives_way_to_a_more_complete_one_only(tmp_path: Path) -> None:
    known = Path(__file__).parents[2] / "leaderboard" / "results" / "mini-baseline-seed1.json"
    entry, items = record.read_record(known), record.read_items(known)
    one, both = OverlapCheck(found=[], unchecked=["a"]), OverlapCheck(found=[], unchecked=["a", "b"])
    path = record.write_record(entry.model_copy(update={"overlap": None, "items": None}), items, tmp_path)
    for check, expected in ((None, None), (both, both), (one, one), (both, one), (None, one)):
        publish.add_overlap(path, check)
        assert record.read_record(path).overlap == expected


@pytest.mark.slow
def test_answers_ahead_are_not_checked_for_overlap(
    settings: EvalSettings, manifest_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base has no record then. The evaluation that writes the records checks them."""
    monkeypatch.setattr(run, "_answer_missing", lambda *_: None)
    run.answer_ahead(replace(settings, adapters=(manifest_adapter,), output=tmp_path), lambda _: None)
    assert not list(tmp_path.glob("*.json"))


def test_models_that_lack_the_same_tasks_share_a_batch() -> None:
    base, *adapters = (EvaluatedModel(name, name and Path(name), None, None) for name in ("", *"abcd"))
    base = replace(base, folder=None)
    a, b, c, d = adapters
    missing = {"": ["x"], "a": ["x"], "b": ["x"], "c": ["x", "y"], "d": []}
    assert group_models([base, a, b, c, d], missing, 1) == [[base], [a], [b], [c]]
    assert group_models([base, a, b, c, d], missing, 2) == [[base], [a, b], [c]]
    alike = {name: ["x"] for name in missing}
    assert group_models([base, a, b, c, d], alike, 2) == [[base], [a, b], [c, d]]
    assert group_models([a, b, c, d], alike, 3) == [[a, b, c], [d]]


@pytest.mark.slow
def test_models_of_a_batch_get_the_records_of_models_alone(
    settings: EvalSettings, manifest_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, use = [], MidalignHF.use
    bare = shutil.copytree(manifest_adapter, tmp_path / "bare")
    (bare / adapters.MANIFEST).unlink()

    def spy(engine: MidalignHF, adapter: str | None, also: Sequence[str] = ()) -> None:
        used.append((adapter, list(also)))
        use(engine, adapter, also)

    monkeypatch.setattr(MidalignHF, "use", spy)
    monkeypatch.setattr("midalign.evaluate.engine._check_vllm_options", lambda *_: None)
    asked = replace(settings, tasks=(EN,), adapters=(manifest_adapter, bare), adapters_only=True, limit=3)
    found: dict[int, list[record.Record]] = {}
    reported: list[EvalProgress] = []
    for most in (1, 2):
        each = replace(asked, max_loras=most, output=tmp_path / str(most))
        found[most] = [record.read_record(path) for path in run.evaluate_models(each, reported.append)]
    models = ["mini-aligned-seed7", "bare"]
    assert used == [(name, also) for also in ([], models) for name in models]
    assert [entry.tasks[EN].counts for entry in found[1]] == [entry.tasks[EN].counts for entry in found[2]]
    assert [entry.run for entry in found[1]] == [entry.run for entry in found[2]]
    # The seconds of a batch are divided by the tokens of its models.
    speeds = {entry.tasks[EN].tokens / entry.tasks[EN].seconds for entry in found[2]}
    assert max(speeds) == pytest.approx(min(speeds), rel=0.05)
    assert [now.done for now in reported if now.finished] == [3, 3, 3, 3]


@pytest.mark.slow
def test_retrieval_alone_starts_no_engine(
    settings: EvalSettings, manifest_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final evaluation of a sweep on a cluster finds all answers. vLLM would take a minute to start."""
    asked = replace(
        settings, tasks=(EN, DE), adapters=(manifest_adapter,), adapters_only=True, output=tmp_path, limit=2
    )
    run.answer_ahead(asked)
    monkeypatch.setattr(run, "open_engine", lambda *_: pytest.fail("started"))
    (path,) = run.evaluate_models(asked)
    entry = record.read_record(path)
    assert entry.retrieval is not None
    assert (entry.retrieval.layer, list(entry.retrieval.accuracy)) == (3, ["de"])
    whole = replace(asked, output=tmp_path / "at-once")
    monkeypatch.undo()
    (path,) = run.evaluate_models(whole)
    assert record.read_record(path).retrieval == entry.retrieval


@pytest.mark.slow
def test_a_base_that_midalign_trained_is_checked_with_its_adapters(
    base: Path, manifest_adapter: Path, tmp_path: Path
) -> None:
    """`lora: null` and `midalign merge --into-base` leave midalign.json beside the weights."""
    manifest = adapters.read_manifest(manifest_adapter)
    assert manifest is not None
    (tmp_path / "de.tsv").write_text(
        "".join(f"{item.utterance}\tx{i}\n" for i, item in enumerate(mini.items("de", "test")))
    )
    trained = shutil.copytree(base, tmp_path / "trained")
    text = guard.training_text("pairs", str(tmp_path / "{language}.tsv"), ["de"])
    (trained / adapters.MANIFEST).write_text(
        manifest.model_copy(update={"trained_on": [text]}).model_dump_json()
    )
    models = [
        EvaluatedModel("trained", None, None, None),
        EvaluatedModel("adapter", manifest_adapter, "d" * 64, manifest),
    ]
    checks = publish.check_training_overlap(models, str(trained), [DE], "test")
    for check in checks.values():
        assert check is not None
        assert [one.exact for one in check.found] == [300]
    assert publish.check_training_overlap(models[:1], str(base), [DE], "test") == {"trained": None}


@pytest.mark.slow
def test_a_superset_of_tasks_replaces_a_record(settings: EvalSettings, tmp_path: Path) -> None:
    shutil.copytree(settings.output, tmp_path / "results")
    both = replace(settings, tasks=(EN, DE), output=tmp_path / "results")
    for path in run.evaluate_models(both, lambda _: None):
        assert list(record.read_record(path).tasks) == [EN, DE]


@pytest.mark.slow
def test_a_comparison_answers_as_each_model_does_alone(base: Path, tmp_path: Path) -> None:
    """PiSSA takes a part out of the base's weights; torch would write both of the other names in one way."""
    import peft

    pissa = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights="pissa")
    adapters = [
        make_adapter(tmp_path / name, base, seed=seed) for seed, name in enumerate(["lr0.5", "lr0_5"])
    ]
    adapters.append(make_adapter_of(tmp_path / "pissa", str(base), pissa))
    asked = EvalSettings(
        base=str(base),
        tasks=(EN,),
        output=tmp_path / "all",
        engine="hf",
        limit=4,
        log_samples=True,
        save_outputs=True,
    )
    run.evaluate_models(replace(asked, adapters=tuple(adapters)), lambda progress: None)
    run.evaluate_models(replace(asked, output=tmp_path / "alone"), lambda progress: None)
    for folder in adapters:
        alone = replace(asked, output=tmp_path / "alone", adapters=(folder,), adapters_only=True)
        run.evaluate_models(alone, lambda progress: None)
    answers = {}
    for name in ("tiny", "lr0.5", "lr0_5", "pissa"):
        answers[name] = (tmp_path / "all" / f"{name}.outputs.jsonl").read_text()
        assert answers[name] == (tmp_path / "alone" / f"{name}.outputs.jsonl").read_text()
        packed = (tmp_path / "all" / f"{name}.outputs.jsonl.zst").read_bytes()
        saved = [json.loads(line) for line in ZstdDecompressor().decompress(packed).splitlines()]
        logged = [json.loads(line) for line in answers[name].splitlines()]
        assert [set(line) - set(logged[0]) for line in saved] == [{"input", "gold"}] * len(logged)
        shared = set(logged[0]) - {"prompt"}
        assert [{key: line[key] for key in shared} for line in saved] == [
            {key: line[key] for key in shared} for line in logged
        ]
        assert all(before["input"] in after["prompt"] for before, after in zip(saved, logged, strict=True))
    assert len(set(answers.values())) == 4


def output_part(output: str) -> TaskPart:
    """A part with one output. The rest of it is not read."""
    answer = Output(doc_id=3, prompt="p", output=output, finish="stop")
    return TaskPart.model_construct(outputs=[answer])


def test_outputs_that_quote_restricted_data_have_a_file_of_their_own(tmp_path: Path) -> None:
    """MASSIVE's licence lets anyone publish excerpts, xSID's asks for its own licence."""
    settings = EvalSettings(base="b", tasks=(), output=tmp_path, save_outputs=True)
    docs = [{"utterance": f"text {number}", "target": f"a: {number}"} for number in range(4)]
    known = dict.fromkeys(("midalign_slot_de", "midalign_slot_xsid_de"), SimpleNamespace(eval_docs=docs))
    plan = EvalPlan(settings, "b", "hf", [], [], known, {}, [], [], {}, {}, {}, {})
    parts = {"midalign_slot_de": output_part("a: x"), "midalign_slot_xsid_de": output_part("b: y")}
    publish.save_outputs(plan, "m", parts)

    def tasks(suffix: str) -> list[str]:
        packed = (tmp_path / f"m{suffix}").read_bytes()
        lines = ZstdDecompressor().decompress(packed).splitlines()
        return [json.loads(line)["task"] for line in lines]

    assert tasks(".outputs.jsonl.zst") == ["midalign_slot_de"]
    (saved,) = read_saved_outputs(tmp_path / "m.outputs.jsonl.zst")
    assert (saved.input, saved.gold, saved.output) == ("text 3", "a: 3", "a: x")
    assert tasks(".private-outputs.jsonl.zst") == ["midalign_slot_xsid_de"]
    assert f"*{publish.PRIVATE_OUTPUTS_SUFFIX}" in (ROOT / ".gitignore").read_text().splitlines()
    # A later record of this name without outputs does not keep those of another.
    publish.save_outputs(replace(plan, settings=replace(settings, save_outputs=False)), "m", parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_adapters_that_cannot_be_scored(base: Path, adapter: Path, tmp_path: Path) -> None:
    idle = make_adapter(tmp_path / "idle", base, trained=False)
    done = midalign(
        *("eval", "--base", base, "--adapter", adapter, "--adapter", idle, "--tasks", EN, "--limit", 2),
        *("--output", tmp_path / "out"),
        status=1,
    )
    assert f"{idle} does nothing" in done.stderr
    done = midalign(
        *("eval", "--base", base, "--adapter", adapter, "--adapter", adapter, "--tasks", EN),
        *("--output", tmp_path / "out"),
        status=1,
    )
    assert "Two models would write adapter-a.json" in done.stderr


def test_small_tasks_share_a_call_and_large_ones_have_their_own() -> None:
    sizes = {"a": 300, "b": 212, "c": 1, "d": 900, "e": 5, "f": 507, "g": 1}
    assert group_tasks(sizes, 512) == [["a", "b"], ["c"], ["d"], ["e", "f"], ["g"]]
    assert group_tasks({}, 512) == []


def test_samples_are_seeded_and_nested() -> None:
    assert draw_sample(300, 50) == draw_sample(300, 50) == sorted(set(draw_sample(300, 50)))
    assert set(draw_sample(300, 50)) < set(draw_sample(300, 100)) < set(range(300))
    assert draw_sample(300, 300) is None
    assert draw_sample(300, None) is None
    assert draw_sample(300, 50, seed=1) != draw_sample(300, 50)


def test_candidates_stand_in_no_training_text() -> None:
    pairs = retrieval.held_out_pairs("mini", ["de", "en", "ja"])
    assert list(pairs) == ["de", "ja"]
    for language, chosen in pairs.items():
        test = {item.id: item.utterance for item in mini.items(language, "test")}
        english = {item.id: item.utterance for item in mini.items("en", "test")}
        assert len(chosen.ids) == len(set(chosen.foreign)) == len(set(chosen.english)) == 100
        assert chosen.foreign == tuple(test[i] for i in chosen.ids)
        assert chosen.english == tuple(english[i] for i in chosen.ids)
        assert not set(chosen.foreign) & {item.utterance for item in mini.items(language, "train")}
        assert not set(chosen.english) & {item.utterance for item in mini.items("en", "train")}
    assert retrieval.held_out_pairs("mini", ["de", "ja"]) == pairs
    assert retrieval.held_out_pairs("mini", ["en"]) == {}


def test_candidates_skip_what_was_trained_on_and_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    from midalign.data.items import Item

    def items(language: str, split: str) -> list[Item]:
        texts = {
            ("en", "test"): ["one", "two", "three", "three", "five", "six"],
            ("de", "test"): ["eins", "zwei", "drei", "vier", "fünf", "fünf"],
            ("en", "train"): ["one"],
            ("de", "train"): ["zwei"],
        }[language, split]
        return [Item(str(i), "", text, text, ()) for i, text in enumerate(texts)]

    monkeypatch.setattr(mini, "items", items)
    chosen = retrieval.held_out_pairs("mini", ["de"])["de"]
    assert set(chosen.english) <= {"three", "five", "six"}
    assert len(chosen.ids) == 2  # one of the two "three", one of the two "fünf"


@pytest.mark.parametrize(
    ("given", "trained", "warned"),
    [
        ("sw", "de", ["--aligned sw is ignored for arm: its midalign.json says de"]),
        ("zh", "zh_cn", []),  # another code of the same language
    ],
)
def test_roles_given_by_hand_are_ignored_with_a_warning_where_a_manifest_has_others(
    caplog: pytest.LogCaptureFixture, given: str, trained: str, warned: list[str]
) -> None:
    settings = EvalSettings(
        base="mini", tasks=("midalign_mini_slot",), output=Path("x"), supervised=("en",), aligned=(given,)
    )
    roles._warn_of_ignored_roles(settings, "arm", {"en"}, {trained})
    assert [entry.getMessage() for entry in caplog.records] == warned
