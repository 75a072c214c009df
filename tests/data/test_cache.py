"""Nothing half-written, whatever happens while a file is written."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest

from midalign.data import cache
from midalign.errors import DataError
from midalign.files import write_atomically


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "file"
    cache.write_to_cache(path, b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        cache.write_to_cache(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "a"))
    assert cache.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("MIDALIGN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache.cache_folder() == tmp_path / "b" / "midalign"


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    cache.write_to_cache(path, b"old")
    program = f"""
import os, signal
from pathlib import Path
from midalign.data import cache
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cache.write_to_cache(Path({str(path)!r}), b"new")
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_only_results_wait_for_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    cache.write_to_cache(tmp_path / "file", b"cached")
    assert not synced
    write_atomically(tmp_path / "result", b"result")
    assert len(synced) == 1


def test_names_of_245_bytes_can_be_written(tmp_path):
    write_atomically(tmp_path / ("a" * 245), b"new")
    assert [len(file.name) for file in tmp_path.iterdir()] == [245]


def test_a_cache_of_a_group_can_be_read_by_it(tmp_path):
    before = os.umask(0o027)
    try:
        cache.write_to_cache(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    "write", [lambda path: cache.write_to_cache(path, b""), lambda path: cache.lock(path).__enter__()]
)
def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path, write):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cache/x cannot be written \(.*export MIDALIGN_CACHE=FOLDER"):
        write(tmp_path / "cache" / "x")


def test_waiting_for_another_process_is_told(tmp_path, caplog):
    with cache.lock(tmp_path / "x"):
        waiting = threading.Thread(target=lambda: cache.lock(tmp_path / "x").__enter__())
        waiting.start()
        waiting.join(1.5)
        assert waiting.is_alive()
    waiting.join(30)
    assert caplog.messages == ["Waiting for another process that downloads x"]


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False)])
def test_offline(monkeypatch, value, expected):
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert cache.is_offline() is expected
