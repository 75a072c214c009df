"""A local stand-in for the Hugging Face hub: repositories of every type in memory, written by commits."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_secret"
Repository = dict[str, Any]
"""`files` by path, `commits`, and what the repository was created with."""


class HubStandIn(ThreadingHTTPServer):
    """The server with its state."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        """By type and name."""


class _Answers(BaseHTTPRequestHandler):
    """What `HfApi.repo_info`, `list_repo_files`, `create_repo` and `create_commit` ask for."""

    server: HubStandIn

    def answer(self, body: Any, status: int = 200, code: str = "") -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        self.wfile.write(content)

    def named(self) -> tuple[tuple[str, str], list[str]]:
        """Type and name of the repository in the path, and the rest: /api/spaces/team/board/commit/main."""
        _, _, kind, namespace, name, *rest = self.path.partition("?")[0].split("/")
        return (kind.removesuffix("s"), f"{namespace}/{name}"), rest

    def do_GET(self) -> None:
        key, rest = self.named()
        repository = self.server.repositories.get(key)
        if repository is None:
            self.answer({"error": "Repository not found"}, 404, "RepoNotFound")
        elif rest[:1] == ["tree"]:
            files = repository["files"].items()
            self.answer([{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in files])
        else:
            self.answer({"id": key[1], "sha": head(repository), "siblings": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid token"}, 401)
        elif self.path == "/api/repos/create":
            wanted = json.loads(body)
            key = (wanted.get("type", "model"), f"{wanted['organization']}/{wanted['name']}")
            status = 409 if key in self.server.repositories else 200
            # As the hub does, which fills new Spaces.
            files = {
                ".gitattributes": b"",
                **({"style.css": b"", "index.html": b""} if "sdk" in wanted else {}),
            }
            self.server.repositories.setdefault(key, {"files": files, "commits": [], "wanted": wanted})
            self.answer({"url": f"{self.server.url}/{key[0]}s/{key[1]}"}, status)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        else:
            self.change(*self.named(), body)

    def change(self, key: tuple[str, str], rest: list[str], body: bytes) -> None:
        repository = self.server.repositories[key]
        if rest[0] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in names]
            self.answer({"files": modes})
            return
        lines = [(line["key"], line["value"]) for line in map(json.loads, body.splitlines())]
        header = dict(lines)["header"]
        if header.get("parentCommit", head(repository)) != head(repository):
            self.answer({"error": "A commit has happened since."}, 412)
            return
        for kind, value in lines:
            if kind == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif kind == "deletedFile":
                del repository["files"][value["path"]]
        repository["commits"].append(header["summary"])
        url = f"{self.server.url}/{key[0]}s/{key[1]}/commit/{head(repository)}"
        done = {"commitUrl": url, "commitOid": head(repository), "success": True}
        self.answer(done | {"hookOutput": "", "pullRequestUrl": None})

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def head(repository: Repository) -> str:
    """The name of the latest commit."""
    return f"{len(repository['commits']):040x}"


@contextmanager
def serve() -> Iterator[HubStandIn]:
    """A running stand-in."""
    server = HubStandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
