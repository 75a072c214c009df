"""`midalign-train` as a user runs it: two arms, a killed run that goes on, refusals on one screen."""

import json
import os
import signal
import subprocess
import sys
import time

import peft
import pytest
import torch
from safetensors.torch import load_file

from midalign import adapter
from midalign.locks import locked

COMMAND = [sys.executable, "-c", "from midalign.cli.train import main; main()"]
SMALL = [
    "mini",
    "updates=4",
    "save_every=1",
    "seeds=[1]",
    "samples_per_update=4",
    "align.pairs_per_update=4",
    "align.copy_samples=2",
    "align.preservation=3.0",
    "lora.dropout=0.1",
    "evaluate=false",
]


def train(output, *overrides, check=True):
    done = subprocess.run(
        [*COMMAND, *SMALL, f"output={output}", *overrides], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    train(output, "--arm", "aligned")
    assert [path.name for path in (output / "adapters").iterdir()] == ["aligned-seed1"]
    train(output)
    return output / "adapters"


@pytest.mark.slow
def test_two_plain_peft_adapters_with_their_manifest(trained):
    from transformers import AutoModelForCausalLM

    from midalign import bases

    assert sorted(path.name for path in trained.iterdir()) == ["aligned-seed1", "baseline-seed1"]
    model = AutoModelForCausalLM.from_pretrained(bases.resolve("mini"))
    ids = torch.arange(10, 20).unsqueeze(0)
    base = model(ids).logits
    for arm in ("baseline", "aligned"):
        adapted = peft.PeftModel.from_pretrained(model, trained / f"{arm}-seed1")
        assert not torch.allclose(adapted(ids).logits, base)
        model = adapted.unload()
        manifest = json.loads((trained / f"{arm}-seed1" / "midalign.json").read_text())
        assert (manifest["arm"], manifest["base"], manifest["updates"]) == (arm, "mini", 4)
        losses = {"task"} if arm == "baseline" else {"task", "alignment", "preservation", "copy"}
        assert set(manifest["training"]) == losses


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_in_the_same_weights(trained, tmp_path):
    command = [*COMMAND, *SMALL, f"output={tmp_path}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    work = tmp_path / "adapters" / ".aligned-seed1.training"
    deadline = time.monotonic() + 300
    while not list(work.glob("checkpoint-2/files.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "adapters" / "aligned-seed1").exists()
    kept = (tmp_path / "adapters" / "baseline-seed1" / "midalign.json").stat().st_mtime_ns

    train(tmp_path)
    assert (tmp_path / "adapters" / "baseline-seed1" / "midalign.json").stat().st_mtime_ns == kept
    assert not work.exists()
    manifests = [
        json.loads((folder / "aligned-seed1" / "midalign.json").read_text())
        for folder in (trained, tmp_path / "adapters")
    ]
    assert manifests[0]["tokens"] == manifests[1]["tokens"] > 0
    whole = load_file(trained / "aligned-seed1" / "adapter_model.safetensors")
    resumed = load_file(tmp_path / "adapters" / "aligned-seed1" / "adapter_model.safetensors")
    for name, weight in whole.items():
        assert torch.equal(resumed[name], weight), name
    assert (
        len(
            {
                adapter.adapter_digest(folders / "aligned-seed1")
                for folders in (trained, tmp_path / "adapters")
            }
        )
        == 1
    )


@pytest.mark.slow
def test_checkpoints_that_a_killed_run_left_beside_its_adapter_go(trained):
    (trained / ".aligned-seed1.training" / "checkpoint-4").mkdir(parents=True)
    train(trained.parent)
    assert sorted(path.name for path in trained.iterdir()) == ["aligned-seed1", "baseline-seed1"]


@pytest.mark.slow
def test_an_adapter_of_another_recipe_is_not_passed_off_as_this_one(trained):
    done = train(trained.parent, "updates=5", check=False)
    assert done.returncode == 1
    assert "holds an adapter of another recipe: updates 4, now 5." in " ".join(done.stderr.split())
    assert "output=OTHER" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("aline.layer=1", "unknown key aline. Did you mean aligned or align"),
        ("base=minni", "Did you mean mini"),
        ("align.pairs=/nowhere/{language}.tsv", "/nowhere/de.tsv cannot be read"),
        (
            "--arm=alinged",
            "no arm 'alinged'. Did you mean aligned",
        ),
        ("supervised=[em]", "no language 'em'. Did you mean"),
    ],
)
def test_mistakes_end_on_one_screen(tmp_path, override, message):
    done = train(tmp_path, override, check=False)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("adapters/*-seed*"))


@pytest.mark.slow
def test_two_runs_at_once_train_one_adapter(tmp_path):
    folder = tmp_path / "adapters" / "baseline-seed1"
    command = [*COMMAND, *SMALL, "updates=2", f"output={tmp_path}", "--arm", "baseline"]
    with locked(folder):  # until both are there
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in processes:
            said = next(line for line in process.stderr if "Waiting" in line)
            assert f"Waiting for process {os.getpid()} on " in said
            assert str(folder) in said
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert out.splitlines() == [str(folder)]
    lines = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if "losses" in line] == [1, 2]
    assert [path.name for path in folder.parent.iterdir()] == ["baseline-seed1"]
