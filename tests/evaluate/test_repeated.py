"""Items that MASSIVE's own training split holds, from `midalign eval` to the record."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from midalign import record
from midalign.data import massive
from midalign.evaluate.plan import draw_sample
from midalign.metrics.slot import METRICS

TASK = "midalign_slot_km"


@pytest.mark.data
@pytest.mark.slow
def test_a_sample_counts_its_own_repeated_items(
    base: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    for locale in ("km-KH", "en-US"):
        massive.add(shared_data / f"massive/1.1/data/{locale}.jsonl.xz")
    command = ["eval", "--base", base, "--tasks", TASK, "--limit", 40, "--engine", "hf"]
    done = subprocess.run(
        [sys.executable, "-m", "midalign", *map(str, command), "--output", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "tiny.json"
    result, items = record.read_record(path).tasks[TASK], record.read_items(path)[TASK]
    test, train = (massive.items("km", split) for split in ("test", "train"))
    known = {item.utterance for item in train}
    expected = [i for i in draw_sample(len(test), 40) if test[i].utterance in known]
    assert 0 < len(expected) < 20
    assert result.repeated == len(expected)
    assert items.repeated.tolist() == expected
    rows = items.counts[[i not in expected for i in items.doc_ids]]
    assert np.array_equal(items.unrepeated, rows)
    assert result.without_repeated == {
        name: pytest.approx(record.nan_to_none(float(metric(rows.sum(0)))))
        for name, metric in METRICS.items()
    }
