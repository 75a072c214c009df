"""Recipes: what is refused, and how the message helps."""

import json
from pathlib import Path

import pytest
import yaml

from midalign.data import pairs, tatoeba
from midalign.errors import RecipeError
from midalign.train.recipe import load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_shipped_recipes_load_with_both_presets(name, preset):
    loaded = load_recipe(name, [f"preset={preset}"])
    assert loaded.align_of("baseline") is None
    assert loaded.align.symmetric == (preset == "default")


def test_overrides_reach_into_sections_and_win_over_recipe_and_preset():
    loaded = load_recipe("mini", ["align.layer=3", "updates=7", "seeds=[4, 5]", "lora.targets=[q_proj]"])
    assert (loaded.align.layer, loaded.updates, loaded.seeds, loaded.lora.targets) == (
        3,
        7,
        [4, 5],
        ["q_proj"],
    )
    assert loaded.align.pairs == "mini"  # the recipe's
    assert loaded.align.weight == load_recipe("mini").align.weight  # the preset's


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("aline.layer=3", "unknown key aline. Did you mean aligned or align"),
        ("align.temprature=1", "unknown key align.temprature. Did you mean temperature?"),
        ("updates=many", "updates: Input should be a valid integer.*found 'many'"),
        ("aligned=[en, de]", "en cannot be both supervised and aligned"),
        ("arms={aligned: {wait: 1}}", "wait"),
        ("preset=papre", "No preset 'papre'. Expected one of default, paper"),
        ("updates", "Expected key=value"),
        ("name.first=1", "name has no nested keys"),
        ("updates=0", "greater than 0"),
        ("dtype=float16", "dtype: Input should be 'auto', 'bfloat16' or 'float32'"),
    ],
)
def test_mistakes(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("mini", [override])


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="Did you mean massive-gemma"):
        load_recipe("masive-gemma")


def test_files(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(RecipeError, match="No recipe file"):
        load_recipe(str(path))
    path.write_text("name: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load_recipe(str(path))
    path.write_text("")
    with pytest.raises(RecipeError, match="has no keys"):
        load_recipe(str(path))
    path.write_text(yaml.safe_dump({"name": "mine", "base": "mini", "task": "midalign_mini_slot"}))
    with pytest.raises(RecipeError, match="supervised is missing"):
        load_recipe(str(path))


def test_digest_is_of_what_decides_the_weights():
    plain = load_recipe("mini").digest("aligned")
    for same in ("output=elsewhere", "evaluate=false", "seeds=[9]", "evaluation.limit=3", "save_every=7"):
        assert load_recipe("mini", [same]).digest("aligned") == plain
    for same in ("align.pairs_a_language=null", "align.multiway=false", "dtype=auto"):
        assert load_recipe("mini", [same]).digest("aligned") == plain
    decide = ["updates=3", "align.layer=2", "align.pairs_a_language=9", "align.multiway=true"]
    decide += ["task=midalign_slot", "dtype=float32", "dtype=bfloat16"]
    digests = {load_recipe("mini", [other]).digest("aligned") for other in decide}
    assert len(digests | {plain}) == len(decide) + 1


def test_digest_is_of_one_arm():
    """What is trained stays trained when a recipe gets another arm."""

    def digests(*overrides):
        mini = load_recipe("mini", overrides)
        return {arm: mini.digest(arm) for arm in mini.arms}

    plain = digests()
    assert plain["baseline"] != plain["aligned"]
    more = digests('arms={"deep": {"layer": 6}, "aligned": {}, "baseline": null}')
    assert {arm: more[arm] for arm in plain} == plain
    assert more["deep"] == digests("align.layer=6")["aligned"]
    assert digests("align.layer=6")["baseline"] == plain["baseline"]
    assert digests("updates=3")["baseline"] != plain["baseline"]
    stopped = "monitor={every: 5, samples: 4, stop_on: retrieval/aligned}", "align.held_out=9"
    assert digests(*stopped)["baseline"] != digests(*stopped, "align.held_out=8")["baseline"]
    assert digests(*stopped)["baseline"] != digests(*stopped, "align.layer=2")["baseline"]
    assert digests(*stopped)["baseline"] == digests(*stopped, "align.weight=0.5")["baseline"]


def test_pairs_that_are_chosen_otherwise_have_another_digest(monkeypatch):
    """Arms trained on Tatoeba's pairs of all scripts are not taken for those of the language's script."""
    trained = load_recipe("mini", ["align.pairs=tatoeba"]).digest("aligned")
    assert pairs.pairs_identity("tatoeba", ["zh_cn"]) != "tatoeba"
    assert pairs.pairs_identity("mini", ["zh"]) == "mini"
    monkeypatch.setattr(tatoeba, "SELECTION", 1)
    assert load_recipe("mini", ["align.pairs=tatoeba"]).digest("aligned") != trained


def test_digest_and_name_of_a_base_do_not_tell_where_its_folder_is(tmp_path):
    folders = [tmp_path / "a" / "model", tmp_path / "b" / "model"]
    for folder in folders:
        folder.mkdir(parents=True)
    one, two = (load_recipe("mini", [f"base={folder}"]) for folder in folders)
    assert one.digest("aligned") == two.digest("aligned")
    assert one.base_name == "model"
    assert load_recipe("massive-gemma").base_name == "google/gemma-3-270m"


def test_languages_of_massive_low_are_those_that_the_rule_chose():
    path = Path(__file__).parents[2] / "leaderboard" / "analysis" / "gemma-3-270m-low" / "low-resource.json"
    halves = {code: row["half"] for code, row in json.loads(path.read_text())["languages"].items()}
    recipe = load_recipe("massive-low")
    assert sorted(recipe.aligned) == sorted(code for code, half in halves.items() if half == "aligned")
    chosen = [code for code, half in halves.items() if half]
    assert sorted(recipe.evaluation.languages) == sorted([*recipe.supervised, *chosen])
