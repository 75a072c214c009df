"""How an adapter was made is kept with it: recipe, data, and a card whose code loads it."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from midalign import adapter, bases
from midalign.errors import RecipeError
from midalign.hub_upload import plan_upload
from midalign.train.arm_settings import arm_settings, setting_differences
from midalign.train.recipe import load_recipe
from midalign.train.run import is_trained, train_recipe

SMALL = ["updates=1", "seeds=[1]", "samples_per_update=2", "align.pairs_per_update=2", "align.copy_samples=0"]
SMALL += ["supervised=[es]", "aligned=[de]", "evaluate=false"]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The overrides of a recipe with a base and pairs in folders of this machine, and its aligned adapter."""
    place = tmp_path_factory.mktemp("machine")
    shutil.copytree(bases.resolve("mini"), place / "my-base")
    (place / "de.tsv").write_text("Guten Morgen\tGood morning\nDanke\tThanks\nGute Nacht\tGood night\n")
    overrides = [*SMALL, f"base={place}/my-base", f"align.pairs={place}/{{language}}.tsv"]
    overrides += [f"output={place}/run"]
    (folder,) = train_recipe(load_recipe("mini", overrides), arms=["aligned"])
    return overrides, folder


def test_the_manifest_has_the_resolved_recipe(made):
    overrides, folder = made
    recipe = load_recipe("mini", overrides)
    aligned = json.loads((folder / adapter.MANIFEST).read_text())
    expected = {
        "base": "my-base",
        "task": "midalign_mini_slot",
        "supervised": ["es"],
        "aligned": ["de"],
        "learning_rate": 0.003,
        "scheduler": "cosine",
        "updates": 1,
        "samples_per_update": 2,
        "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "targets": "all-linear"},
    }
    assert {key: aligned["settings"][key] for key in expected} == expected
    align = {"pairs": "{language}.tsv", "weight": 1.0, "layer": "middle", "context": "sentence"}
    align |= {"switched_samples": 0, "copy_samples": 0}
    assert {key: aligned["settings"]["align"][key] for key in align} == align
    assert aligned["seed"] == 1
    assert all(re.fullmatch("[0-9a-f]{64}", text["digest"]) for text in aligned["trained_on"])
    assert adapter.read_manifest(folder).settings == arm_settings(recipe, "aligned")
    assert arm_settings(recipe, "baseline") == {**aligned["settings"], "align": None}


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("learning_rate=0.01", "learning_rate 0.003, now 0.01"),
        ("align.weight=0.5", "align.weight 1.0, now 0.5"),
        ("arms={baseline: null, aligned: {layer: 2}}", "align.layer middle, now 2"),
        ("align.switched_samples=1", "align.switched_samples 0, now 1"),
        ("lora.use_rslora=true", "lora.use_rslora not set, now True"),
        ("supervised=[es, ru]", "supervised ['es'], now ['es', 'ru']"),
        ("labelled_share=0.5", "labelled_share null, now 0.5"),
        ("arguments.weight_decay=0.1", "arguments.weight_decay not set, now 0.1"),
    ],
)
def test_another_recipe_is_rejected_with_the_keys_that_differ(made, override, difference):
    overrides, folder = made
    with pytest.raises(RecipeError, match="holds an adapter of another recipe") as caught:
        is_trained(folder, load_recipe("mini", [*overrides, override]), "aligned")
    assert f"another recipe: {difference}. Train elsewhere: output=OTHER" in str(caught.value)


def test_keys_beside_the_weights_may_change(made):
    overrides, folder = made
    changed = [*overrides, "evaluate=true", "save_every=7", "seeds=[1, 2]", "base_hub_id=org/base"]
    assert is_trained(folder, load_recipe("mini", changed), "aligned")
    # Another arm's keys do not concern this one.
    changed = [*overrides, "arms={aligned: {}, baseline: null, other: {weight: 0.5}}"]
    assert is_trained(folder, load_recipe("mini", changed), "aligned")


def test_other_files_of_pairs_are_named(made, tmp_path):
    overrides, folder = made
    (tmp_path / "de.tsv").write_text("Guten Morgen\tGood morning\nDanke\tThank you\nJa\tYes\n")
    recipe = load_recipe("mini", [*overrides, f"align.pairs={tmp_path}/{{language}}.tsv"])
    with pytest.raises(RecipeError, match=r"another recipe: other files of align\.pairs, or"):
        is_trained(folder, recipe, "aligned")


def test_adapters_of_earlier_versions_stay_valid(made, tmp_path):
    overrides, folder = made
    old = shutil.copytree(folder, tmp_path / "old")
    content = json.loads((old / adapter.MANIFEST).read_text())
    for key in ("settings", "base_hub_id", "base_licence"):
        del content[key]
    (old / adapter.MANIFEST).write_text(json.dumps(content))
    assert is_trained(old, load_recipe("mini", overrides), "aligned")
    with pytest.raises(
        RecipeError, match="earlier version of midalign trained it without storing the recipe"
    ):
        is_trained(old, load_recipe("mini", [*overrides, "updates=2"]), "aligned")


def test_a_key_that_was_added_later_had_its_default():
    before = arm_settings(load_recipe("mini"), "aligned")
    old = {key: value for key, value in before.items() if key != "labelled_share"}
    old["align"] = {key: value for key, value in before["align"].items() if key not in ("ratio", "cycles")}
    assert setting_differences(old, before) == []
    now = arm_settings(load_recipe("mini", ["align.cycles=2"]), "aligned")
    assert setting_differences(old, now) == ["align.cycles 1, now 2"]


def test_no_file_names_a_folder_of_this_machine(made):
    """But the manifest, which names the user's own pairs for overlap checks on this machine."""
    _, folder = made
    machine = [str(folder.parents[2]), str(Path.home()), os.getcwd()]
    for name, file in plan_upload(folder, "team").files.items():
        content = file if isinstance(file, bytes) else file.read_bytes()
        assert not [path for path in machine if path.encode() in content], name
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    found = {name for name, content in contents.items() if any(path.encode() in content for path in machine)}
    assert found == {adapter.MANIFEST}
    assert json.loads(contents[adapter.CONFIG])["base_model_name_or_path"] is None


def code_of(card):
    (code,) = re.findall("```python\n(.*?)```", card, re.DOTALL)
    return code


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(10, 20).unsqueeze(0)).logits


def check_logits(adapted, base, folder):
    """The logits are those of base plus `alpha / rank * B @ A`, by hand, and not those of the base."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    without = logits(model)
    modules, weights = dict(model.named_modules()), load_file(folder / adapter.WEIGHTS)
    for name, a in weights.items():
        if ".lora_A" in name:
            module = modules[name.removeprefix("base_model.model.").partition(".lora_A")[0]]
            module.weight.data += 2 * weights[name.replace("lora_A", "lora_B")] @ a
    found = logits(adapted.float())
    torch.testing.assert_close(found, logits(model), atol=1e-4, rtol=1e-3)
    assert (found - without).abs().max() > 0.01


def test_the_code_of_the_card_loads_the_adapter(made, monkeypatch):
    _, folder = made
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model is None
    assert card.data.license == "apache-2.0"
    place = folder.parents[2] / "my-base"
    assert str(place) not in str(card)
    assert adapter.base_digest(str(place)) in str(card)
    monkeypatch.chdir(folder)
    names = {}
    exec(code_of(str(card)).replace("PATH", str(place)), names)
    check_logits(names["model"], place, folder)


def test_the_code_for_the_bundled_base_runs_as_written(made, monkeypatch):
    from midalign.model_card import render_card

    _, folder = made
    manifest = adapter.read_manifest(folder).model_copy(update={"base": "mini"})
    monkeypatch.chdir(folder)
    names = {}
    exec(code_of(render_card(manifest)), names)
    check_logits(names["model"], bases.resolve("mini"), folder)


def test_the_hub_id_of_a_base_comes_from_the_recipe_or_the_hub_s_cache(tmp_path):
    assert bases.hub_id("google/gemma-3-270m") == "google/gemma-3-270m"
    assert bases.hub_id("mini") is None
    snapshot = tmp_path / "models--google--gemma-3-270m" / "snapshots" / ("9b0cfec8" * 5)
    snapshot.mkdir(parents=True)
    assert bases.hub_id(str(snapshot)) == "google/gemma-3-270m"
    copy = tmp_path / "gemma"
    copy.mkdir()
    (copy / "config.json").write_text('{"_name_or_path": "google/gemma-3-270m"}')
    assert bases.hub_id(str(copy)) is None  # a fine-tuned copy names its start there
    for front, licence in (("license: gemma", "gemma"), ("tags: []", None), ("license: [", None)):
        (copy / "README.md").write_text(f"---\n{front}\n---\n# Base\n")
        assert bases.stated_licence(copy) == licence
