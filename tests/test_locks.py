"""Locks between processes: one at a time, the next one waits and says for whom, the dead hold nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from midalign.locks import locked

ROOT = Path(__file__).parents[1]


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


HOLD = """
import sys, time
from pathlib import Path
from midalign.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

ADD = """
import sys
from pathlib import Path
from midalign.locks import locked
target = Path(sys.argv[1])
for _ in range(60):
    with locked(target):
        number = int(target.read_text())
        target.write_text(str(number + 1))
"""


def test_nothing_is_lost_between_processes(tmp_path: Path) -> None:
    """Each reads, adds one and writes; the lock file comes and goes each time."""
    target = tmp_path / "number"
    target.write_text("0")
    processes = [start(ADD, target) for _ in range(4)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert target.read_text() == "240"
    assert list(tmp_path.iterdir()) == [target]


def test_who_waits_says_for_whom_and_goes_on_when_the_holder_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = tmp_path / "results" / "tiny.json"
    holder = start(HOLD, target)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiting = start(HOLD, target)
    assert waiting.stderr is not None
    said = waiting.stderr.readline()
    assert f"Waiting for process {holder.pid} on " in said
    assert str(target) in said
    os.kill(holder.pid, signal.SIGKILL)  # its lock file stays, its lock does not
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "held\n"
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=30)
    holder.communicate(timeout=30)
    start_time = time.monotonic()
    with locked(target):
        assert time.monotonic() - start_time < 1
    assert list(target.parent.iterdir()) == []


def test_another_target_is_not_waited_for(tmp_path: Path) -> None:
    """Shards of one model are different records."""
    with locked(tmp_path / "tiny.shard-1-of-2.json"), locked(tmp_path / "tiny.shard-2-of-2.json"):
        assert len(list(tmp_path.iterdir())) == 2


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", without)
    with locked(tmp_path / "tiny.json"):
        assert "has no file locks: run one command at a time there" in caplog.text
    assert list(tmp_path.iterdir()) == []
