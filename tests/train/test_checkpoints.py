"""What a run does with checkpoints and disks, without training."""

import errno
import json
import shutil
from collections import namedtuple

import pytest

from midalign import adapter, bases
from midalign.errors import RecipeError
from midalign.train import checkpoints, run
from midalign.train.recipe import load_recipe
from midalign.train.run import is_trained, train_recipe


def test_a_full_disk_is_named_and_other_errors_pass(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 0))
    with pytest.raises(OSError, match="No space left") as caught, run.name_full_disks(tmp_path):
        raise RuntimeError("unexpected pos 1142592 vs 1142480")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 0, 1 << 30))
    with pytest.raises(RuntimeError, match="shapes"), run.name_full_disks(tmp_path):
        raise RuntimeError("shapes differ")


def test_an_unfinished_checkpoint_is_passed_over(tmp_path, caplog):
    for step in (9, 50, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    checkpoints.seal_checkpoint(tmp_path / "checkpoint-9")
    (tmp_path / "checkpoint-50" / "files.json").write_text('{"trainer_state.json": ')
    assert checkpoints.last_intact_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]
    assert "checkpoint-100 is removed, because it is incomplete: it has no files.json" in caplog.text
    assert "checkpoint-50 is removed, because its files.json is not JSON" in caplog.text
    assert "Training resumes after update 9" in caplog.text


def interrupted(output, at):
    """Train the aligned arm of a small recipe until the update `at`, and return recipe and checkpoints."""
    small = ["updates=4", "save_every=1", "seeds=[1]", "samples_per_update=2", "align.pairs_per_update=2"]
    settings = load_recipe("mini", [*small, "supervised=[es]", "aligned=[de]", f"output={output}"])

    def stop(progress):
        if progress.update == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(settings, stop, ["aligned"])
    return settings, output / "adapters" / ".aligned-seed1.training"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer.pt", "optimizer.pt is missing"),
        ("scheduler.pt", "scheduler.pt is missing"),
        ("rng_state.pth", "rng_state.pth is missing"),
        ("adapter_model.safetensors", "adapter_model.safetensors has changed"),
    ],
)
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, name, damage):
    """The weights are those of a run that was not interrupted."""
    settings, work = interrupted(tmp_path / "run", at=4)
    newest = work / "checkpoint-3" / name
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    if "missing" in damage:
        newest.unlink()
    else:
        content = bytearray(newest.read_bytes())
        content[-1] ^= 1
        newest.write_bytes(content)
    updates = []
    (resumed,) = train_recipe(settings, lambda now: updates.append(now.update), ["aligned"])
    assert f"checkpoint-3 is removed, because {damage}" in caplog.text
    assert updates == [3, 4]
    whole = settings.model_copy(update={"output": tmp_path / "whole"})
    (expected,) = train_recipe(whole, lambda _: None, ["aligned"])
    assert adapter.adapter_digest(resumed) == adapter.adapter_digest(expected)


def test_checkpoints_of_other_settings_are_refused_with_the_difference(tmp_path):
    work = tmp_path / "work"
    run._claim(work, load_recipe("mini", ["updates=7"]), "aligned")
    (work / "best").mkdir()  # measured, before a checkpoint was kept
    run._claim(work, load_recipe("mini"), "aligned")
    assert [path.name for path in work.iterdir()] == ["recipe.json"]
    (work / "checkpoint-1").mkdir()
    run._claim(work, load_recipe("mini", ["save_every=7"]), "aligned")  # does not decide the weights
    with pytest.raises(RecipeError, match=r"begun with other settings \(updates \d+, now 7\)"):
        run._claim(work, load_recipe("mini", ["updates=7"]), "aligned")
    kept = json.loads((work / "recipe.json").read_text())
    assert kept["recipe"]["updates"] == load_recipe("mini").updates


EARLY = "monitor={every: 5, stop_on: task_loss/supervised}"
WHOLE = ["lora=null", "align.preservation=0"]


@pytest.mark.parametrize(
    ("arm", "begun", "now", "differences"),
    [
        ("aligned", ["monitor={every: 5}"], [], ""),
        ("baseline", ["align.weight=0.5"], [], ""),
        ("aligned", ["align.weight=0.5"], ["seeds=[1]"], "align.weight 0.5, now 1.0; "),
        ("baseline", [EARLY], [EARLY, "align.layer=2"], "held_out.layer middle, now 2; "),
        ("aligned", WHOLE, WHOLE, ""),
        (
            "baseline",
            WHOLE,
            [],
            "lora null, now {'r': 16, 'alpha': 32, 'dropout': 0.0, 'targets': 'all-line…; ",
        ),
    ],
)
def test_only_keys_that_determine_the_arm_are_named(tmp_path, arm, begun, now, differences):
    """The keys of other arms and of the monitor alone do not, and a section is one key."""
    run._claim(tmp_path, load_recipe("mini", ["align.held_out=20", *begun, "updates=7"]), arm)
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(RecipeError) as caught:
        run._claim(tmp_path, load_recipe("mini", ["align.held_out=20", *now, "updates=8"]), arm)
    named = str(caught.value).partition("other settings (")[2].partition("). Resume")[0]
    assert sorted(named.split("; ")) == sorted(f"{differences}updates 7, now 8".split("; "))


@pytest.mark.parametrize("damage", [{"recipe": None}, {"recipe": {"name": "mini", "of_an_old_version": 1}}])
def test_a_begun_recipe_that_cannot_be_read_is_no_traceback(tmp_path, damage):
    run._claim(tmp_path, load_recipe("mini", ["updates=7"]), "aligned")
    (tmp_path / "checkpoint-1").mkdir()
    mark = tmp_path / "recipe.json"
    mark.write_text(json.dumps({**json.loads(mark.read_text()), **damage}))
    with pytest.raises(RecipeError, match="so the differing keys are unknown"):
        run._claim(tmp_path, load_recipe("mini"), "aligned")


@pytest.mark.parametrize(
    ("file", "name"), [("model.safetensors", "base"), ("tokenizer_config.json", "tokenizer")]
)
def test_a_run_resumes_on_its_very_base_alone(tmp_path, file, name):
    """Two checkpoints of one training may both be called hf: a/hf and b/hf."""
    first, second, moved = (tmp_path / parent / "hf" for parent in "abc")
    for folder in (first, second, moved):
        shutil.copytree(bases.resolve("mini"), folder)
    content = (second / file).read_bytes()
    last = content[-1] ^ 1 if name == "base" else ord(" ")  # a weight, or white space in JSON
    (second / file).write_bytes(content[:-1] + bytes([last]))
    recipe = {folder: load_recipe("mini", [f"base={folder}"]) for folder in (first, second, moved)}
    assert recipe[first].digest("aligned") == recipe[second].digest("aligned")
    work = tmp_path / "work"
    run._claim(work, recipe[first], "aligned")
    (work / "checkpoint-1").mkdir()
    run._claim(work, recipe[moved], "aligned")
    with pytest.raises(RecipeError, match=rf"begun with other settings \(files of the {name}\)"):
        run._claim(work, recipe[second], "aligned")

    finished = adapter.Manifest(
        name="x",
        arm="aligned",
        seed=1,
        recipe=recipe[first].reference("aligned"),
        base="hf",
        base_digest=adapter.base_digest(str(first)),
        tokenizer_digest=adapter.tokenizer_digest(str(first)),
        task="midalign_mini_slot",
        supervised=["en"],
        aligned=["de"],
        layer=2,
        pairs="mini",
        updates=1,
        tokens=1,
        seconds=1.0,
        packages={},
        training={},
    )
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / adapter.MANIFEST).write_text(finished.model_dump_json())
    assert is_trained(tmp_path / "adapter", recipe[moved], "aligned")
    with pytest.raises(RecipeError, match=f"trained with another {name} "):
        is_trained(tmp_path / "adapter", recipe[second], "aligned")


def test_pairs_files_decide_by_what_they_hold(tmp_path):
    def load(folder, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "de.tsv").write_text(text)
        pairs = f"align.pairs={tmp_path}/{folder}/{{language}}.tsv"
        return load_recipe("mini", [pairs, "aligned=[de]"])

    first = load("a", "eins\tone\n")
    known = first.digest("aligned")
    run._claim(tmp_path / "work", first, "aligned")
    (tmp_path / "work" / "checkpoint-1").mkdir()
    moved = load("b", "eins\tone\n")
    assert moved.digest("aligned") == known
    run._claim(tmp_path / "work", moved, "aligned")
    changed = load("b", "eins\tONE\n")
    assert changed.digest("aligned") != known
    assert changed.digest("baseline") == first.digest("baseline")
    with pytest.raises(RecipeError, match="begun with other settings"):
        run._claim(tmp_path / "work", changed, "aligned")
    load("a", "eins\tONE\n")
    with pytest.raises(RecipeError, match=r"other settings \(other files of align\.pairs, or"):
        run._claim(tmp_path / "work", first, "aligned")


def test_a_run_resumes_in_the_dtype_in_which_it_was_begun(tmp_path, monkeypatch):
    """Under dtype=auto on a machine with bf16, then on one without."""
    work, recipe = tmp_path / "work", load_recipe("mini")
    monkeypatch.setattr("midalign.device.has_bf16", lambda: True)
    assert run._claim(work, recipe, "aligned") == "bfloat16"
    (work / "checkpoint-1").mkdir()
    monkeypatch.setattr("midalign.device.has_bf16", lambda: False)
    assert run._claim(work, recipe, "aligned") == "bfloat16"
    assert run._claim(tmp_path / "other", recipe, "aligned") == "float32"
    fixed = load_recipe("mini", ["dtype=bfloat16"])
    assert run._claim(tmp_path / "fixed", fixed, "aligned") == "bfloat16"
    with pytest.raises(RecipeError, match=r"begun with other settings \(dtype auto, now bfloat16\)"):
        run._claim(work, fixed, "aligned")
    before = json.loads((work / "recipe.json").read_text())
    del before["dtype"]  # as earlier versions wrote it
    (work / "recipe.json").write_text(json.dumps(before))
    assert run._claim(work, recipe, "aligned") == "float32"


@pytest.mark.slow
def test_a_run_resumed_on_another_machine_ends_in_the_weights_of_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr("midalign.device.has_bf16", lambda: True)
    settings, _ = interrupted(tmp_path / "run", at=2)
    whole = settings.model_copy(update={"output": tmp_path / "whole"})
    (expected,) = train_recipe(whole, lambda _: None, ["aligned"])
    monkeypatch.setattr("midalign.device.has_bf16", lambda: False)
    (resumed,) = train_recipe(settings, lambda _: None, ["aligned"])
    assert adapter.adapter_digest(resumed) == adapter.adapter_digest(expected)
    assert adapter.read_manifest(resumed).dtype == "bfloat16"
    assert "| dtype of training | bfloat16 |" in (resumed / "README.md").read_text()
