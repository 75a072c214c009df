"""The card beside an adapter, and its upload to a local stand-in for the hub's HTTP interface."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from midalign import adapter, record
from midalign.cli.train import _write_scores
from midalign.errors import RecordError
from midalign.train import card

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboard"))
from synthetic_records import counts, share, write

SMALL = ["mini", "updates=2", "seeds=[1]", "samples_per_update=2", "align.pairs_per_update=2"]
SMALL += ["arms={aligned: {}}", "evaluation.limit=2", "evaluation.languages=[en, de]"]


class Hub(BaseHTTPRequestHandler):
    """What `HfApi.create_repo` and `upload_folder` ask for; files arrive in `uploaded`."""

    def answer(self, body, status=200):
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.seen.append((self.path, self.headers["Authorization"]))
        if self.headers["Authorization"] != "Bearer hf_secret":
            self.answer({"error": "Invalid token"}, 401)
        elif self.path == "/api/repos/create":
            name = json.loads(body)
            self.answer({"url": f"{self.server.url}/{name['organization']}/{name['name']}"})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.uploaded[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {
                "commitUrl": f"{self.server.url}/team/x/commit/1",
                "commitOid": "1" * 40,
                "success": True,
            }
            self.answer(commit | {"hookOutput": "", "pullRequestUrl": None})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self):
        self.answer({"sha": "0" * 40, "siblings": [], "id": "team/x", "xetEnabled": False})

    def log_message(self, *_):
        """Keep quiet."""


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.uploaded, server.seen = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def train(output, hub, token):
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", "from midalign.cli.train import main; main()", *SMALL]
    command += [f"output={output}", "--push-to-hub", "team"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_an_adapter_is_uploaded_with_its_card_and_scores(tmp_path, hub):
    refused = train(tmp_path, hub, "hf_wrong")
    assert refused.returncode == 1
    assert "was not uploaded to team/mini-aligned-seed1" in refused.stderr
    assert "Traceback" not in refused.stderr

    done = train(tmp_path, hub, "hf_secret")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/team/mini-aligned-seed1" in done.stdout
    folder = tmp_path / "adapters" / "aligned-seed1"
    assert hub.uploaded == {path.name: path.read_bytes() for path in folder.iterdir()}

    text = hub.uploaded["README.md"].decode()
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == "mini"
    assert front["library_name"] == "peft"
    assert front["language"] == ["de", "en", "es", "hi", "ru", "tr", "zh"]
    assert "| supervised languages | en, es, ru, zh |" in text
    assert "| aligned languages | de, tr, hi |" in text
    (path,) = (tmp_path / "results").glob("*aligned*.json")
    scored = json.loads(path.read_text())["tasks"]["midalign_mini_slot_de"]["metrics"]["slot_f1"]
    row = next(line for line in text.splitlines() if line.startswith("| midalign_mini_slot_de | aligned |"))
    assert f"{scored['value']:.3f} ± {scored['stderr']:.3f}" in row


@pytest.fixture
def trained(tmp_path):
    """An adapter's folder as midalign-train leaves it, with weights that nothing reads."""
    folder = tmp_path / "adapters" / "aligned-seed1"
    folder.mkdir(parents=True)
    (folder / adapter.CONFIG).write_text("{}")
    (folder / adapter.WEIGHTS).write_bytes(b"weights")
    manifest = adapter.Manifest(
        name="mini-aligned-seed1",
        arm="aligned",
        seed=1,
        recipe=adapter.RecipeRef(name="mini", digest="a" * 64),
        base="mini",
        base_digest="b" * 64,
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
    (folder / adapter.MANIFEST).write_text(manifest.model_dump_json())
    return folder


def scored(folder, name, right, weights, regime="free", group="midalign_mini_slot", code="de"):
    """A record of the adapter with these weights, with `right` of ten items right."""
    decoding = {"regime": regime}
    path = write(folder, name, "aligned", {code: share(10, right)}, seed=1, decoding=decoding, group=group)
    content = json.loads(path.read_text())
    content["adapter"] = {"name": "mini-aligned-seed1", "digest": weights, "manifest": None}
    path.write_text(json.dumps(content))
    return path


def test_the_card_has_free_and_constrained_scores(trained, tmp_path):
    weights, results = adapter.digest(trained), tmp_path / "results"
    scored(results, "mini-aligned-seed1", 3, weights)
    scored(results, "mini-aligned-seed1-constrained", 7, weights, "constrained")
    scored(results, "other-weights-of-this-name", 9, "c" * 64)
    _write_scores([trained], results)
    free, constrained = (trained / card.CARD).read_text().split("## Scores on test, all items, ")[1:]
    assert free.startswith("free decoding\n\nRecord `mini-aligned-seed1`.")
    assert "| midalign_mini_slot_de | aligned | 0.300 ± 0.010 |" in free
    assert constrained.startswith("constrained decoding\n\nRecord `mini-aligned-seed1-constrained`.")
    assert "| midalign_mini_slot_de | aligned | 0.700 ± 0.010 |" in constrained
    assert "0.900" not in free + constrained


def test_the_card_of_other_weights_has_no_scores(trained, tmp_path):
    scored(tmp_path / "results", "mini-aligned-seed1", 3, "c" * 64)
    _write_scores([trained], tmp_path / "results")
    assert "Not scored yet" in (trained / card.CARD).read_text()


def test_the_card_takes_no_impossible_scores(trained, tmp_path):
    impossible = {"de": counts([3], [3], [1])}
    path = write(tmp_path / "results", "mini-aligned-seed1", "aligned", impossible, seed=1)
    content = json.loads(path.read_text())
    content["adapter"]["digest"] = adapter.digest(trained)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="expected at most"):
        _write_scores([trained], tmp_path / "results")


def test_families_in_one_record_have_tables_of_their_own(trained, tmp_path):
    entry = record.read_record(scored(tmp_path, "mini-aligned-seed1", 3, adapter.digest(trained)))
    slots = entry.tasks["midalign_mini_slot_de"]
    metrics = {"chrf": record.Metric(value=41.25, stderr=0.5, n=10)}
    directions = {
        f"midalign_mini_mt_{code}": slots.model_copy(
            update={"language": code, "family": "translation", "metrics": metrics}
        )
        for code in ("en-es", "de-en", "en-ja", "ja-de")
    }
    text = card.text(
        adapter.read_manifest(trained), [entry.model_copy(update={"tasks": {**directions, **entry.tasks}})]
    )
    assert "| task | role | chrf |" in text
    assert "| task | role | slot_f1 |" in text
    for code, role in {
        "en-es": "supervised",
        "de-en": "aligned",
        "en-ja": "unseen",
        "ja-de": "unseen",
    }.items():
        assert f"| midalign_mini_mt_{code} | {role} | 41.250 ± 0.500 |" in text
    assert "| midalign_mini_slot_de | aligned | 0.300 ± 0.010 |" in text
