"""Downloads against a local server that cuts, stalls, lies and alters."""

import errno
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from midalign.data import cache
from midalign.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MiB


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; what it does wrong is set on the class."""

    cut_after: list[int]
    """Bytes after which the next answers end; empty: whole answers."""
    ranges: bool
    said_length: int | None
    answers: list[int]
    """Statuses of the next answers, errors all."""
    cut: threading.Event
    """Set once an answer was cut and waits: whoever reads it can be killed now."""
    stall: bool
    go_on: threading.Event
    requests: list[str | None]

    def do_GET(self):
        asked = self.headers.get("Range")
        Server.requests.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and Server.ranges else 0
        if Server.answers:
            self.send_error(Server.answers.pop(0))
            return
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(Server.said_length or len(CONTENT) - start))
        self.end_headers()
        end = start + Server.cut_after.pop(0) if Server.cut_after else len(CONTENT)
        self.wfile.write(CONTENT[start:end])
        if Server.stall:
            Server.stall = False
            self.wfile.flush()
            Server.cut.set()
            Server.go_on.wait(60)

    def log_message(self, *_):
        pass


@pytest.fixture
def url(monkeypatch, tmp_path):
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.time, "sleep", lambda _: None)
    Server.cut_after, Server.ranges, Server.said_length, Server.requests = [], True, None, []
    Server.answers, Server.stall = [], False
    Server.cut, Server.go_on = threading.Event(), threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    Server.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_progress_is_told(url, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(cache, "PROGRESS", -1)
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert caplog.messages[0] == f"Downloading {url}"
    assert caplog.messages[-1] == "f: 1.0 of 1.0 MB"


def test_cut_connections_are_taken_up_where_they_ended(url, tmp_path):
    Server.cut_after = [300_000, 200_000]
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert Server.requests == [None, "bytes=300000-", "bytes=500000-"]


def test_a_server_without_ranges_starts_over(url, tmp_path):
    Server.cut_after, Server.ranges = [300_000], False
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_later_process_goes_on_from_what_an_earlier_one_left(url, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT[:700_000])
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert Server.requests == ["bytes=700000-"]


def test_a_part_that_is_the_whole_file_is_taken(url, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert Server.requests == [f"bytes={len(CONTENT)}-"]


def test_a_killed_process_leaves_a_part_that_the_next_one_takes_up(url, tmp_path):
    Server.cut_after, Server.stall = [700_000], True
    program = f"""
from pathlib import Path
from midalign.data import cache
cache.BLOCK = 1000
cache.download({url!r}, Path({str(tmp_path / "f")!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    part = tmp_path / "f.part"
    assert Server.cut.wait(60)
    deadline = time.time() + 60
    while not (part.exists() and part.stat().st_size == 700_000) and time.time() < deadline:
        threading.Event().wait(0.05)
    process.kill()
    process.wait()
    Server.go_on.set()
    assert [file.name for file in tmp_path.iterdir()] == ["f.part"]
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert Server.requests == [None, "bytes=700000-"]
    assert [file.name for file in tmp_path.iterdir()] == ["f"]


def test_a_server_that_is_not_there(url, tmp_path):
    with pytest.raises(DataError, match=r"could not be downloaded: \[Errno \d+\] Connection refused\. The"):
        cache.download("http://127.0.0.1:1/file", tmp_path / "f")


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(url, tmp_path, status):
    Server.answers = [status]
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_full_disk_names_the_file_and_keeps_what_arrived(url, tmp_path):
    program = f"""
import errno, os, resource
from pathlib import Path
from midalign.data import cache
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
cache.BLOCK = 100_000
try:
    cache.download({url!r}, Path({str(tmp_path / "f")!r}))
except cache.DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "f.part cannot be written (File too large)" in done.stdout
    assert not (tmp_path / "f").exists()
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert Server.requests == [None, "bytes=600000-"]


def test_a_part_longer_than_the_file_is_thrown_away(url, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT * 2)
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_file_that_never_arrives_whole_is_not_there(url, tmp_path):
    Server.said_length, Server.ranges = len(CONTENT) + 1, False
    with pytest.raises(DataError, match=r"could not be downloaded.*Rerun the same command to resume"):
        cache.download(url, tmp_path / "f")
    assert not (tmp_path / "f").exists()
    assert len(Server.requests) == cache.ATTEMPTS


def test_a_missing_file_is_not_asked_for_again(url, tmp_path):
    with pytest.raises(DataError, match="answers 404"):
        cache.download(url + "s", tmp_path / "f")
    assert len(Server.requests) == 1


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_switches_are_obeyed(url, tmp_path, monkeypatch, switch):
    monkeypatch.setenv(switch, "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        cache.download(url, tmp_path / "f")
    assert Server.requests == []


@pytest.fixture
def lines(url, monkeypatch):
    """A set of one file, `file`, whose digest is CONTENT's, behind the server."""
    from midalign.data.lines import LineFiles

    files = cache.FileSet("tatoeba")
    monkeypatch.setitem(files.__dict__, "digests", {"file": (0, hashlib.sha256(CONTENT).hexdigest())})
    return LineFiles(files, url.replace("/file", "/{file}"))


def test_a_file_is_fetched_verified_and_stored(lines):
    assert not lines.files.path("file").exists()
    lines.fetch("file")
    assert lines.files.path("file").read_bytes() == CONTENT
    assert [path.name for path in Path(cache.cache_folder(), "downloads").iterdir()] == ["file.lock"]
    lines.fetch("file")
    assert len(Server.requests) == 1


def test_altered_bytes_are_refused(lines, monkeypatch):
    monkeypatch.setitem(lines.files.__dict__, "digests", {"file": (7, "0" * 64)})
    with pytest.raises(
        DataError, match=r"was rejected.*file has .* lines, sha256 .*expected 7 lines, sha256 0000"
    ):
        lines.fetch("file")
    assert not lines.files.path("file").exists()
    assert not list(Path(cache.cache_folder(), "downloads").glob("file*[!k]"))  # a lock file may stay


def test_the_remedy_without_network_is_named(lines, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="midalign data add tatoeba PATH"):
        lines.fetch("file")


def test_processes_that_want_one_file_fetch_it_once(url, tmp_path):
    program = f"""
import hashlib
from midalign.data import cache
from midalign.data.lines import LineFiles
files = cache.FileSet("tatoeba")
files.__dict__["digests"] = {{"file": (0, {hashlib.sha256(CONTENT).hexdigest()!r})}}
LineFiles(files, {url.replace("/file", "/{file}")!r}).fetch("file")
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert cache.FileSet("tatoeba").path("file").read_bytes() == CONTENT
    assert len(Server.requests) == 1


@pytest.fixture
def massive_archive(url, monkeypatch):
    """MASSIVE behind the server: two locales of three rows, with digests to match."""
    from midalign.data import massive

    content, digests = io.BytesIO(), {}
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for locale in ("en-US", "sw-KE"):
            rows = [
                {"id": str(i), "partition": part, "intent": "a", "utt": f"{locale} {i}", "annot_utt": f"{i}"}
                for i, part in enumerate(massive.SPLITS.values())
            ]
            text = "".join(json.dumps(row) + "\n" for row in rows).encode()
            member = tarfile.TarInfo(f"1.1/data/{locale}.jsonl")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
            for row, split in zip(rows, massive.SPLITS, strict=True):
                line = f"{row['id']}\ta\t{row['utt']}\t{row['annot_utt']}\n".encode()
                digests[f"{locale}/{split}.tsv"] = (1, hashlib.sha256(line).hexdigest())
    files = cache.FileSet("massive")
    files.__dict__["digests"] = digests
    monkeypatch.setattr(massive, "FILES", files)
    monkeypatch.setattr(massive, "URL", url)
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", content.getvalue())
    return massive


def test_massive_is_fetched_at_first_use(massive_archive):
    Server.cut_after = [100]
    assert [item.utterance for item in massive_archive.items("sw", "test")] == ["sw-KE 2"]
    assert Server.requests == [None, "bytes=100-"]
    massive_archive.items("en", "train")
    assert len(Server.requests) == 2
    assert [path.name for path in Path(cache.cache_folder(), "downloads").iterdir()] == ["file.lock"]


def test_an_altered_archive_is_thrown_away_and_the_next_attempt_may_succeed(massive_archive, monkeypatch):
    whole = CONTENT
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", whole[:200] + bytes(50) + whole[250:])
    with pytest.raises(DataError, match=r"massive: the download from http.* was rejected: .*"):
        massive_archive.items("sw", "test")
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", whole)
    assert len(massive_archive.items("sw", "test")) == 1


def test_a_disk_that_fills_up_while_the_archive_is_stored_costs_no_second_download(
    massive_archive, monkeypatch
):
    replace = os.replace

    def full(source, target):
        if str(target).endswith("test.tsv"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*test.tsv'"):
        massive_archive.items("sw", "test")
    assert not list(cache.cache_folder().rglob("*test.tsv*"))
    monkeypatch.setattr(os, "replace", replace)
    assert len(massive_archive.items("sw", "test")) == 1
    assert Server.requests == [None]
