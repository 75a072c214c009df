"""Losses and measurements in trackers, by their own readers, without a network."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

SMALL = [
    "mini",
    "updates=2",
    "seeds=[1]",
    "samples_per_update=2",
    "align.pairs_per_update=2",
    "evaluate=false",
]


@pytest.mark.slow
def test_comet_offline_and_tensorboard(tmp_path):
    environment = os.environ | {
        "COMET_START_ONLINE": "0",
        "COMET_OFFLINE_DIRECTORY": str(tmp_path / "comet"),
        "COMET_PROJECT_NAME": "midalign",
        "COMET_API_KEY": "none",
        "TENSORBOARD_LOGGING_DIR": str(tmp_path / "tensorboard"),
    }
    command = [sys.executable, "-c", "from midalign.cli.train import main; main()", *SMALL]
    command += [f"output={tmp_path}/out", "report_to=[comet_ml, tensorboard]", "arms={aligned: {}}"]
    command += ["align.held_out=4", "monitor={every: 2, samples: 2}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    (archive,) = (tmp_path / "comet").glob("*.zip")
    with zipfile.ZipFile(archive) as experiment:
        messages = [json.loads(line) for line in experiment.read("messages.json").splitlines()]
    metrics = {m["payload"]["metric"]["metricName"] for m in messages if m["type"] == "metric_msg"}
    assert {"train/task", "train/alignment", "train/retrieval/aligned"} <= metrics

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/task")] == [1, 2]
