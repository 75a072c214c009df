"""The card beside an adapter, and its upload to a local stand-in for the hub's HTTP interface."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from midalign import adapter, harness, record
from midalign.cli.app import app
from midalign.data.overlap import Overlap, OverlapCheck
from midalign.errors import AdapterError, RecordError
from midalign.hub_upload import plan_upload, upload_adapter
from midalign.leaderboard.adapter_cards import runs_by_adapter, scored_card
from midalign.model_card import HERE, render_card

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
            self.server.created.append(name)
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
        self.server.seen.append((self.path, self.headers["Authorization"]))
        private = self.server.exists_as == "private"
        self.answer(
            {"sha": "0" * 40, "siblings": [], "id": "team/x", "xetEnabled": False, "private": private}
        )

    def log_message(self, *_):
        """Keep quiet."""


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.uploaded, server.seen, server.created, server.exists_as = {}, [], [], "private"
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
    text = hub.uploaded.pop("README.md").decode()
    here = (folder / "README.md").read_text()
    assert hub.uploaded == {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".md"}
    assert text == here.replace(
        'adapter = "."  # the folder of this file', 'adapter = "team/mini-aligned-seed1"'
    )

    front = ModelCard(text).data
    assert front.base_model is None  # no model of the hub
    assert (front.library_name, front.pipeline_tag) == ("peft", "text-generation")
    assert front.license == "apache-2.0"
    assert front.language == ["de", "en", "es", "hi", "ru", "tr", "zh"]
    assert "| supervised languages | en, es, ru, zh |" in text
    assert "| aligned languages | de, tr, hi |" in text
    (path,) = (tmp_path / "results").glob("*aligned*.json")
    written = json.loads(path.read_text())
    assert written["adapter"]["manifest"]["settings"]["align"]["weight"] == 1.0
    scored = written["tasks"]["midalign_mini_slot_de"]["metrics"]["slot_f1"]
    row = next(line for line in text.splitlines() if line.startswith("| midalign_mini_slot_de | aligned |"))
    assert f"{scored['value']:.3f} ± {scored['stderr']:.3f}" in row


def card_with_scores(folder, results):
    return scored_card(folder, runs_by_adapter([folder], results)[folder])


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
    weights, results = adapter.adapter_digest(trained), tmp_path / "results"
    scored(results, "mini-aligned-seed1", 3, weights)
    scored(results, "mini-aligned-seed1-constrained", 7, weights, "constrained")
    scored(results, "other-weights-of-this-name", 9, "c" * 64)
    text = card_with_scores(trained, results)
    free, constrained = text.split("## Scores on test, all items, ")[1:]
    assert free.startswith("free decoding\n\nRecord `mini-aligned-seed1`.")
    assert "| midalign_mini_slot_de | aligned | 0.300 ± 0.010 |" in free
    assert constrained.startswith("constrained decoding\n\nRecord `mini-aligned-seed1-constrained`.")
    assert "| midalign_mini_slot_de | aligned | 0.700 ± 0.010 |" in constrained
    assert "0.900" not in free + constrained


def test_the_card_of_other_weights_has_no_scores(trained, tmp_path):
    scored(tmp_path / "results", "mini-aligned-seed1", 3, "c" * 64)
    assert "Not scored yet" in card_with_scores(trained, tmp_path / "results")


def test_the_card_takes_no_impossible_scores(trained, tmp_path):
    impossible = {"de": counts([3], [3], [1])}
    path = write(tmp_path / "results", "mini-aligned-seed1", "aligned", impossible, seed=1)
    content = json.loads(path.read_text())
    content["adapter"]["digest"] = adapter.adapter_digest(trained)
    path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match="expected at most"):
        card_with_scores(trained, tmp_path / "results")


def test_families_in_one_record_have_tables_of_their_own(trained, tmp_path):
    entry = record.read_record(scored(tmp_path, "mini-aligned-seed1", 3, adapter.adapter_digest(trained)))
    slots = entry.tasks["midalign_mini_slot_de"]
    metrics = {"chrf": record.Metric(value=41.25, stderr=0.5, n=10)}
    directions = {
        f"midalign_mini_mt_{code}": slots.model_copy(
            update={"language": code, "family": "translation", "metrics": metrics}
        )
        for code in ("en-es", "de-en", "en-ja", "ja-de")
    }
    text = render_card(
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


def test_the_hub_reads_the_scores_of_the_card(trained, tmp_path):
    weights, results = adapter.adapter_digest(trained), tmp_path / "results"
    scored(results, "mini-aligned-seed1", 3, weights)
    scored(results, "mini-aligned-seed1-constrained", 7, weights, "constrained")
    scored(results, "other-weights-of-this-name", 9, "c" * 64)
    card = ModelCard(card_with_scores(trained, results))
    values = [(r.metric_value, r.metric_args) for r in card.data.eval_results if r.metric_type == "slot_f1"]
    assert values == [(0.3, None), (0.7, {"decoding": "constrained"})]
    assert {(r.task_type, r.dataset_type, r.dataset_config) for r in card.data.eval_results} == {
        ("token-classification", "mini", "de")
    }
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


def test_the_card_has_prompts_data_and_licences(trained):
    manifest = adapter.read_manifest(trained).model_copy(
        update={
            "task": "midalign_slot",
            "pairs": "tatoeba",
            "base": "google/gemma-3-270m",
            "base_licence": "gemma",
            "settings": {"chat_template": True, "system_instruction": "Be ```brief```."},
        }
    )
    text = render_card(manifest)
    front = ModelCard(text).data
    assert front.datasets == ["AmazonScience/massive"]
    assert (front.license, front.base_model) == ("gemma", "google/gemma-3-270m")
    assert "| midalign_slot (massive) | task | en, es | CC BY 4.0 |" in text
    assert "| tatoeba | sentence pairs | de | CC BY 2.0 FR |" in text
    assert "Utterance: {{utterance}}\nSlots:\n```" in text
    assert "the user message of the base's chat template" in text
    assert "````\nBe ```brief```.\n````" in text
    assert 'base = "google/gemma-3-270m"' in text


@pytest.mark.parametrize(
    "name",
    [
        *("midalign_mini_slot_de", "midalign_mini_mt_de-en", "midalign_mini_json_de"),
        "own",
    ],
)
def test_prompts_of_cards_are_those_of_the_tasks(name, tmp_path, monkeypatch):
    """Jinja fills the fields of a document, as in lm-eval."""
    import jinja2

    if name == "own":
        monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))
        row = {"language": "de", "text": "Ada in Ulm", "entities": [{"type": "PER", "text": "Ada"}]}
        (tmp_path / "mine.jsonl").write_text(json.dumps(row))
        (name,) = harness.expand([f"structured:{tmp_path}/mine.jsonl"])
    task = harness.load_tasks([name])[name]
    document = next(iter(task.test_docs()))
    filled = jinja2.Template(harness.prompt_template(name)).render(document)
    assert filled == harness.prompt(task, document)


@pytest.fixture
def online(hub, monkeypatch):
    """The hub's client in this process speaks with the stand-in."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return hub


def test_a_dry_run_lists_the_files_and_contacts_nothing(trained, online):
    command = ["push", str(trained), "--to", "team", "--private", "--dry-run"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert online.seen == []
    assert not (trained / "README.md").exists()
    lines = [line.split() for line in result.output.splitlines()]
    sizes = {words[2]: int(words[0].replace(",", "")) for words in lines if "bytes" in words}
    assert ["team/mini-aligned-seed1", "(private)"] in lines

    upload_adapter(plan_upload(trained, "team"), private=True)
    assert {name: len(content) for name, content in online.uploaded.items()} == sizes
    assert set(sizes) == {"README.md", "midalign.json", "adapter_config.json", "adapter_model.safetensors"}
    assert [request["visibility"] for request in online.created] == ["private"]


def test_an_unreachable_hub_is_explained(trained, online, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AdapterError, match=r"not uploaded to team/mini-aligned-seed1.*cannot be reached"):
        upload_adapter(plan_upload(trained, "team"))


def test_nothing_private_goes_to_a_public_repository(trained, online):
    online.exists_as = "public"
    with pytest.raises(AdapterError, match="exists and is public: nothing was uploaded"):
        upload_adapter(plan_upload(trained, "team"), private=True)
    assert online.uploaded == {}
    assert upload_adapter(plan_upload(trained, "team")) == f"{online.url}/team/mini-aligned-seed1"
    assert online.uploaded


def test_an_upload_has_no_folders_of_this_machine(trained, online, tmp_path, caplog):
    tmp_path = tmp_path / "my data"
    manifest = adapter.read_manifest(trained)
    path = f"{tmp_path}/pairs/{{language}}.tsv"
    figures = {"split": "test", "language": "de", "texts": 9, "exact": 1, "short": 0, "near": 0}
    overlap = Overlap(training=path, test=f"{tmp_path}/mine.jsonl", **figures)
    (trained / adapter.MANIFEST).write_text(
        manifest.model_copy(
            update={
                "pairs": path,
                "overlap": [overlap],
                "trained_on": [
                    adapter.TrainingText(
                        kind="pairs",
                        source=path,
                        languages=["de"],
                        digest=None,
                    )
                ],
            }
        ).model_dump_json()
    )
    entry = record.read_record(scored(tmp_path / "results", "a", 3, adapter.adapter_digest(trained)))
    check = OverlapCheck(found=[overlap], unchecked=[f"{path} (sw) is not available"])
    card = render_card(adapter.read_manifest(trained), [entry.model_copy(update={"overlap": check})])
    assert "training text: {language}.tsv holds 1 of 9 texts of mine.jsonl test, de." in card
    assert "Overlap not checked: {language}.tsv (sw) is not available." in card

    upload_adapter(plan_upload(trained, "team", card))
    assert not [name for name, content in online.uploaded.items() if str(tmp_path).encode() in content]
    uploaded = adapter.Manifest.model_validate_json(online.uploaded["midalign.json"])
    assert (uploaded.pairs, uploaded.trained_on[0].source) == ("{language}.tsv", "{language}.tsv")
    assert (uploaded.overlap[0].training, uploaded.overlap[0].test) == ("{language}.tsv", "mine.jsonl")
    assert "a path of this machine" not in caplog.text
    (trained / adapter.CONFIG).write_text(json.dumps({"base_model_name_or_path": "/home/me/base"}))
    plan_upload(trained, "team")
    warning = "adapter_config.json contains a path of this machine, which the upload publishes: /home/me/base"
    assert warning in caplog.text


def test_a_card_is_uploaded_as_it_is_unless_an_earlier_version_wrote_it(trained):
    card = trained / "README.md"
    card.write_text("# Mine\n\nChecked by hand.\n\n```python\n" + HERE + "\n```\n")
    uploaded = plan_upload(trained, "team").files["README.md"].decode()
    assert uploaded == card.read_text().replace(HERE, 'adapter = "team/mini-aligned-seed1"')
    card.write_text("# Mine without code\n")
    assert plan_upload(trained, "team").files["README.md"] == b"# Mine without code\n"
    base = 'AutoModelForCausalLM.from_pretrained("mini")'
    card.write_text(f"# Old\n\n```python\nmodel = PeftModel.from_pretrained({base}, FOLDER)\n```\n")
    uploaded = plan_upload(trained, "team").files["README.md"].decode()
    assert 'adapter = "team/mini-aligned-seed1"' in uploaded
    assert "FOLDER" not in uploaded


@pytest.mark.parametrize(
    ("name", "repository"),
    [("a+b@1_0.5", "team/a-b-1_0.5"), ("a..b--c", "team/a.b-c"), ("ä-.x", "team/x")],
)
def test_repositories_have_names_that_the_hub_allows(trained, name, repository):
    content = json.loads((trained / adapter.MANIFEST).read_text())
    (trained / adapter.MANIFEST).write_text(json.dumps({**content, "name": name}))
    assert plan_upload(trained, "team").repository == repository
    with pytest.raises(AdapterError, match="not a valid repository name"):
        plan_upload(trained, "te/am")


def test_parents_with_one_name_keep_their_settings(trained):
    parents = [
        adapter.Parent(name="task", digest=digit * 64, settings={"learning_rate": rate})
        for digit, rate in (("1", 0.25), ("2", 0.5))
    ]
    manifest = adapter.read_manifest(trained).model_copy(update={"parents": parents})
    assert manifest.known_settings == [("task", {"learning_rate": 0.25}), ("task", {"learning_rate": 0.5})]
    assert re.findall("### task\n\n```yaml\nlearning_rate: (.*)\n", render_card(manifest)) == ["0.25", "0.5"]


def test_names_do_not_break_tables(trained):
    manifest = adapter.read_manifest(trained).model_copy(update={"arm": "a|b", "pairs": "x|y/{language}.tsv"})
    lines = [line for line in render_card(manifest).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3, 6}


def test_a_missing_folder_is_named_as_missing(tmp_path):
    result = CliRunner().invoke(app, ["push", str(tmp_path / "typo"), "--to", "team"])
    assert result.exit_code == 2
    assert "does not exist" in " ".join(result.output.replace("│", " ").split())


def test_results_of_other_weights_are_not_pushed(trained, tmp_path, online):
    scored(tmp_path / "results", "mini-aligned-seed1", 3, "c" * 64)
    command = ["push", str(trained), "--to", "team", "--results", str(tmp_path / "results")]
    result = CliRunner().invoke(app, command)
    assert "has no record of the weights in" in str(result.exception)
    assert online.seen == []
    scored(tmp_path / "results", "mini-aligned-seed1-constrained", 3, adapter.adapter_digest(trained))
    assert CliRunner().invoke(app, command).output == f"{online.url}/team/mini-aligned-seed1\n"
    (score, *_) = ModelCard(online.uploaded["README.md"].decode()).data.eval_results
    assert (score.metric_type, score.metric_value) == ("slot_f1", 0.3)


def test_an_adapter_from_elsewhere_has_no_card(trained):
    (trained / adapter.MANIFEST).unlink()
    result = CliRunner().invoke(app, ["push", str(trained), "--to", "team", "--dry-run"])
    assert "has no midalign.json, from which the card is written" in str(result.exception)
