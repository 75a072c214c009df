"""`midalign leaderboard export`, judged by the programs that read the formats."""

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic_records import counts, share, write
from typer.testing import CliRunner

from midalign.cli.app import app
from midalign.escaping import latex_text
from midalign.leaderboard.exports import record_frame
from midalign.metrics.slot import METRICS

SCHEMA = Path(__file__).with_name("every_eval_ever-0.3.0.schema.json")
"""Of https://pypi.org/project/every-eval-ever/0.3.0, whose package needs Python 3.12. MIT licence."""
HOSTILE = "a$b_c|{x}\n[red]<script>%&"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    write(folder, "base", "base", {"en": share(10, 0), "de": share(10, 3)}, base="org/model")
    write(folder, "arm", "aligned", {"en": share(10, 7), "de": share(10, 4)}, base="org/model", seed=1)
    write(folder, "foreign", "base", {"en": share(10, 7)}, base=HOSTILE, engine=HOSTILE)
    return folder


def export(results: Path, name: str) -> Path:
    output = results.parent / name
    words = ["leaderboard", "export", "--format", name, "--results", str(results), "--output", str(output)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    return output


def test_pandas_reads_the_rows_that_python_users_get(results):
    frame, read = record_frame(results), pd.read_csv(export(results, "csv"))
    assert list(read.columns) == list(frame.columns)
    assert len(read) == len(frame) == 5 * len(METRICS)
    arm = frame[(frame.record == "arm") & (frame.metric == "slot_f1")].set_index("language")
    assert arm.value.to_dict() == {"de": 0.4, "en": 0.7}
    assert arm.role.to_dict() == {"de": "aligned", "en": "supervised"}
    np.testing.assert_allclose(read.value, frame.value.astype(float))
    with export(results, "csv").open(newline="") as file:
        assert {len(row) for row in csv.reader(file)} == {len(frame.columns)}


def test_every_eval_ever_accepts_the_files(results):
    files = sorted(export(results, "eee").rglob("*.json"))
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text()))
    assert len(files) == 3
    for file in files:
        content = json.loads(file.read_text())
        assert list(validator.iter_errors(content)) == []
    assert any(file.parts[-4:-1] == ("midalign_mini_slot", "org", "model") for file in files)
    assert [file.read_bytes() for file in files] == [
        file.read_bytes() for file in sorted(export(results, "eee").rglob("*.json"))
    ]


def test_the_temperature_of_outputs_made_elsewhere_is_not_stated(tmp_path):
    results = tmp_path / "results"
    write(results, "midalign", "base", {"en": share(10, 5)})
    write(results, "elsewhere", "base", {"en": share(10, 5)}, base="other", engine="external")
    arguments = {
        content["source_metadata"]["additional_details"]["record"]: [
            result["generation_config"]["generation_args"] for result in content["evaluation_results"]
        ]
        for content in map(json.loads, (file.read_text() for file in export(results, "eee").rglob("*.json")))
    }
    assert all(stated == {"temperature": 0.0} for stated in arguments["midalign"])
    assert not any(arguments["elsewhere"])


def test_the_hub_reads_the_scores_of_a_card(results):
    from huggingface_hub import ModelCard

    card = ModelCard((export(results, "model-index") / "arm.md").read_text())
    scores = {(r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert scores["en", "slot_f1"] == 0.7
    assert {r.task_type for r in card.data.eval_results} == {"token-classification"}
    for file in (results.parent / "model-index").iterdir():
        yaml.safe_load(file.read_text().strip("-\n"))


def test_latex_has_a_row_per_model_and_escapes_names(results):
    text = export(results, "latex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    assert r"aligned & 55.0 $\pm$" in text
    assert r"a\$b\_c\textbar{}\{x\} [red]\textless{}script\textgreater{}\%\&" in text
    assert latex_text("a\\b^~#") == r"a\textbackslash{}b\textasciicircum{}\textasciitilde{}\#"


def test_records_of_schema_version_1_are_migrated(tmp_path):
    """Version 1 stated 0 where version 2 has no value: nothing was predicted here."""
    results = tmp_path / "results"
    path = write(results, "old", "base", {"en": counts([0] * 4, [0] * 4, [1] * 4)})
    content = json.loads(path.read_text())
    content["schema_version"] = 1
    for metric in content["tasks"]["midalign_mini_slot_en"]["metrics"].values():
        metric["value"] = metric["value"] or 0.0
        metric["stderr"] = 0.5
    path.write_text(json.dumps(content))
    frame = record_frame(results).set_index("metric")
    assert np.isnan(frame.value["values_not_in_utterance"])
    assert frame.stderr["slot_f1"] != 0.5
