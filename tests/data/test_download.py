"""Downloads against a local server that cuts, lies and alters."""

import hashlib
import http.server
import subprocess
import sys
import threading
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
    requests: list[str | None]

    def do_GET(self):
        asked = self.headers.get("Range")
        Server.requests.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and Server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(Server.said_length or len(CONTENT) - start))
        self.end_headers()
        end = start + Server.cut_after.pop(0) if Server.cut_after else len(CONTENT)
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def url(monkeypatch, tmp_path):
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.time, "sleep", lambda _: None)
    Server.cut_after, Server.ranges, Server.said_length, Server.requests = [], True, None, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()
    thread.join()


def test_progress_is_told(url, tmp_path):
    told = []
    cache.download(url, tmp_path / "f", lambda *now: told.append(now))
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert told[-1] == ("f", len(CONTENT), len(CONTENT))


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


def test_a_part_longer_than_the_file_is_thrown_away(url, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT * 2)
    cache.download(url, tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_file_that_never_arrives_whole_is_not_there(url, tmp_path):
    Server.said_length, Server.ranges = len(CONTENT) + 1, False
    with pytest.raises(DataError, match=r"could not be fetched.*goes on from there"):
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
    from midalign.data.lines import Source

    files = cache.FileSet("tatoeba")
    monkeypatch.setitem(files.__dict__, "digests", {"file": (0, hashlib.sha256(CONTENT).hexdigest())})
    return Source(files, url.replace("/file", "/{file}"))


def test_a_file_is_fetched_verified_and_stored(lines):
    lines.fetch("file")
    assert lines.files.path("file").read_bytes() == CONTENT
    lines.fetch("file")
    assert len(Server.requests) == 1


def test_altered_bytes_are_refused(lines, monkeypatch):
    monkeypatch.setitem(lines.files.__dict__, "digests", {"file": (7, "0" * 64)})
    with pytest.raises(DataError, match=r"file has .* lines, sha256 .*expected 7 lines, sha256 0000"):
        lines.fetch("file")
    assert not lines.files.path("file").exists()
    assert not list(Path(cache.folder(), "downloads").glob("file*[!k]"))  # a lock file may stay


def test_the_remedy_without_network_is_named(lines, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="midalign data add tatoeba PATH"):
        lines.fetch("file")


def test_processes_that_want_one_file_fetch_it_once(url, tmp_path):
    program = f"""
import hashlib
from midalign.data import cache
from midalign.data.lines import Source
files = cache.FileSet("tatoeba")
files.__dict__["digests"] = {{"file": (0, {hashlib.sha256(CONTENT).hexdigest()!r})}}
Source(files, {url.replace("/file", "/{file}")!r}).fetch("file")
"""
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert cache.FileSet("tatoeba").path("file").read_bytes() == CONTENT
    assert len(Server.requests) == 1
