"""A group with two tasks in one language, and a family of whose metrics a task has some."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from midalign import record
from midalign.families import structured
from midalign.leaderboard.build import build_board
from midalign.leaderboard.load import load_runs
from midalign.leaderboard.sections import group_runs, language_title, resource_of
from midalign.metrics.structured import COLUMNS, METRICS

UNER = {"en_ewt": "en", "en_pud": "en", "zh_gsd": "zh", "sr_set": "sr_latn"}
CALLS = {"en": "en", "de": "de"}
ROLES = record.Roles(supervised=["zh"], aligned=["en"], unseen=["sr_latn"])


def table(right: int) -> np.ndarray:
    """Ten items with a gold span each, of which some are found."""
    counts = np.zeros((10, len(COLUMNS)), np.int64)
    for name in ("n", "parses", "complies", "span_gold", "span_pred", "parsed_gold", "in_source", "calls"):
        counts[:, COLUMNS.index(name)] = 1
    for name in ("span_tp", "located_tp", "exact", "intent"):
        counts[:right, COLUMNS.index(name)] = 1
    return counts


def write(folder: Path, group: str, source: str, tasks: dict[str, str]) -> None:
    found, items = {}, {}
    own = structured.metrics({"source": source})
    for right, (code, language) in enumerate(tasks.items(), start=3):
        counts = table(right)
        pooled = counts.sum(0)
        name = f"{group}_{code}"
        found[name] = record.TaskResult(
            language=language,
            family="structured",
            version=1,
            n=10,
            counts=dict(zip(COLUMNS, pooled.tolist(), strict=True)),
            metrics={m: record.Metric(value=float(METRICS[m](pooled)), stderr=0.1, n=10) for m in own},
            data_digest="0" * 64,
            prompt_digest="1" * 64,
            seconds=1,
            tokens=1,
        )
        items[name] = record.Items(np.arange(10), counts)
    entry = record.Record(
        name=group,
        created=datetime(2026, 11, 23, tzinfo=UTC),
        arm="base",
        seed=None,
        recipe=None,
        base=record.Base(name="mini", digest="2" * 64),
        adapter=None,
        roles=ROLES,
        engine=record.Engine(name="hf", dtype="float32", device="cpu"),
        decoding={},
        sample=record.Sample(split="test", limit=None, seed=0),
        tasks=found,
        retrieval=None,
        packages={},
        seconds=1,
        tokens=1,
    )
    record.write_record(entry, items, folder)


def test_treebanks_of_one_language_stand_side_by_side_with_its_role(tmp_path: Path) -> None:
    write(tmp_path, "midalign_json_uner", "uner", UNER)
    (section,) = group_runs(load_runs(tmp_path))
    assert section.group == "midalign_json_uner"
    assert section.languages == sorted(UNER)
    roles = {code: section.role(code) for code in section.languages}
    assert roles == {"en_ewt": "aligned", "en_pud": "aligned", "zh_gsd": "supervised", "sr_set": "unseen"}
    assert section.first.task("en_pud").counts["span_tp"] == 4
    assert (language_title("sr_set"), resource_of("zh_gsd")) == ("Serbian (Latin)", "high")
    assert language_title("en-de") == "English to German"


def test_a_board_shows_the_metrics_that_its_tasks_have(tmp_path: Path) -> None:
    write(tmp_path / "results", "midalign_json_uner", "uner", UNER)
    write(tmp_path / "results", "midalign_json_call", "massive", CALLS)
    call, entity = group_runs(load_runs(tmp_path / "results"))
    assert set(METRICS) - set(call.metrics) == {"span_f1_seqeval"}
    assert set(METRICS) - set(entity.metrics) == {"intent_accuracy"}
    build_board(tmp_path / "results", tmp_path / "board")
    page = (tmp_path / "board" / "README.md").read_text("utf-8")
    assert "| English `en_ewt` | aligned | high | 10 | 30.0 ±" in page
    assert "| German `de` |" in page
    board = (tmp_path / "board" / "leaderboard.json").read_text("utf-8")
    uner = board[board.index('"midalign_json_uner"') :]
    assert "intent_accuracy" in board
    assert "intent_accuracy" not in uner
    assert "span_f1_seqeval" in uner


def test_a_record_without_its_headline_is_refused(tmp_path: Path) -> None:
    from midalign.errors import RecordError

    write(tmp_path, "midalign_json_call", "massive", CALLS)
    path = tmp_path / "midalign_json_call.json"
    path.write_text(path.read_text("utf-8").replace('"span_f1":', '"span_f9":'), "utf-8")
    with pytest.raises(RecordError, match="midalign_json_call_en has no span_f1"):
        load_runs(tmp_path)
