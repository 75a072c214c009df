"""Sweeps: what is trained for which points, and a small one through the front door."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files
from statistics import mean

import pytest
from safetensors.torch import load_file

from midalign import adapter, record
from midalign.data import massive, ntrex, tatoeba
from midalign.errors import RecipeError
from midalign.sweep.grid import Grid, read_grid
from midalign.sweep.point_adapters import adapters_to_score
from midalign.sweep.points import plan_points, recipes_of_points
from midalign.sweep.result_files import name_seeds
from midalign.train.recipe import load_recipe
from midalign.train.recipe_checks import check_roles
from midalign.train.run import training_runs

SMALL = [
    "updates=2",
    "samples_per_update=4",
    "align.pairs_per_update=4",
    "align.copy_samples=0",
    "evaluation.limit=2",
    "evaluation.languages=[en,de,tr,hi]",
]


def test_changes_of_alignment_are_arms_of_one_recipe():
    grid = Grid(name="g", recipe="mini", grid={"align.layer": [1, [1, 2]], "align.weight": [0.1, 0.2]})
    points = plan_points(grid, ["seeds=[4]", "output=/there"])
    (recipe,) = recipes_of_points(points)
    assert list(recipe.arms) == [
        "baseline",
        "layer=1,weight=0.1",
        "layer=1,weight=0.2",
        "layer=1+2,weight=0.1",
        "layer=1+2,weight=0.2",
    ]
    assert [recipe.align_of(point.arm).weight for point in points] == [0.1, 0.2, 0.1, 0.2]
    assert recipe.align_of(points[3].arm).layer == [1, 2]
    assert (recipe.seeds, recipe.evaluation.split, str(recipe.output)) == ([4], "validation", "/there/g")


def test_recipes_share_a_baseline_where_the_task_side_is_the_same():
    grid = Grid(name="g", recipe="mini", grid={"aligned": [["de"], ["de", "tr"]], "updates": [5, 6]})
    points = plan_points(grid)
    assert [point.label for point in points] == [
        "aligned=de,updates=5",
        "aligned=de,updates=6",
        "aligned=de+tr,updates=5",
        "aligned=de+tr,updates=6",
    ]
    assert [point.against.updates for point in points] == [5, 6, 5, 6]
    assert [("baseline" in point.recipe.arms) for point in points] == [True, True, False, False]
    assert points[3].against is points[1].recipe
    assert points[3].recipe.aligned == ["de", "tr"]


def test_baselines_that_are_stopped_by_their_recipe_s_languages_are_not_shared():
    """Stopped by `task_loss/aligned`, a baseline of German ends elsewhere than one of Turkish."""
    monitor = {"every": 5, "stop_on": "task_loss/aligned"}
    grid = Grid(
        name="g",
        recipe="mini",
        changes={"align.held_out": 4, "monitor": monitor},
        grid={"aligned": [["de"], ["tr"]], "align.weight": [0.1, 0.2]},
    )
    points = plan_points(grid)
    assert [point.against.aligned for point in points] == [["de"], ["de"], ["tr"], ["tr"]]
    assert all("baseline" in point.recipe.arms for point in points)
    watched = grid.model_copy(update={"changes": {"align.held_out": 4, "monitor": {"every": 5}}})
    assert [point.against.aligned for point in plan_points(watched)] == [["de"]] * 4


def test_points_and_baselines_of_unlike_dtypes_are_not_compared(tmp_path):
    """A swept dtype has a baseline each; under auto, machines may differ."""
    grid = Grid(name="g", recipe="mini", grid={"dtype": ["bfloat16", "float32"], "align.layer": [2]})
    assert [point.against.dtype for point in plan_points(grid)] == ["bfloat16", "float32"]
    grid = Grid(name="g", recipe="mini", grid={"align.layer": [2]})
    (point,) = plan_points(grid, ["seeds=[1]", f"output={tmp_path}"])
    folders = {arm: folder for arm, _, folder in training_runs(point.recipe)}
    for dtype in ("float32", "bfloat16", None):
        for arm, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            made = adapter.Manifest(
                **{"name": arm, "arm": arm, "seed": 1, "recipe": point.recipe.reference(arm)},
                **{"base": "mini", "base_digest": "0", "task": "t", "supervised": ["en"], "aligned": []},
                **{"layer": None, "pairs": None, "updates": 1, "tokens": 1, "seconds": 1.0},
                **{"packages": {}, "training": {}},
                dtype="bfloat16" if arm == "baseline" else dtype,
            )
            (folder / adapter.MANIFEST).write_text(made.model_dump_json())
        if dtype == "float32":
            with pytest.raises(RecipeError, match=r"trained in float32 and its baseline .* in bfloat16"):
                adapters_to_score(point.recipe, [point])
        else:
            assert adapters_to_score(point.recipe, [point]) == list(folders.values())


def test_a_nested_change_is_the_same_as_a_dotted_one():
    """And leaves a section's other keys as they are: on dev, with the recipe's own pairs."""
    nested = Grid(
        name="g",
        recipe="mini",
        changes={"evaluation": {"limit": 100}, "align": {"pairs_per_update": 8}},
        grid={"align": [{"layer": 2}, {"layer": 3, "weight": 0.5}]},
        points=[{"lora": {"r": 4}}],
    )
    dotted = Grid(
        name="g",
        recipe="mini",
        changes={"evaluation.limit": 100, "align.pairs_per_update": 8},
        points=[{"align.layer": 2}, {"align.layer": 3, "align.weight": 0.5}, {"lora.r": 4}],
    )
    points = plan_points(nested)
    assert points == plan_points(dotted)
    assert [point.label for point in points] == ["layer=2", "layer=3,weight=0.5", "r=4"]
    (evaluation, align), mini = (
        (points[0].recipe.evaluation, points[0].recipe.align),
        load_recipe("mini").align,
    )
    assert (evaluation.split, evaluation.base, evaluation.limit) == ("validation", False, 100)
    assert align == mini.model_copy(update={"pairs_per_update": 8})
    assert points[2].recipe.lora == load_recipe("mini").lora.model_copy(update={"r": 4})
    overridden = plan_points(nested, ["evaluation={limit: 3}"])[0].recipe.evaluation
    assert (overridden.split, overridden.limit) == ("validation", 3)


def test_labels_tell_points_apart():
    grid = Grid(
        name="g",
        recipe="mini",
        grid={"align.pairs": ["news/{language}.tsv", "web/{language}.tsv"]},
        points=[
            {"base": "Qwen/Qwen2.5-3B"},
            {"base": "Qwen/Qwen2.5-7B"},
            {"aligned": ["de"], "align.layer": 1},
        ],
    )
    assert [point.label for point in plan_points(grid)] == [
        "pairs=news_{language}",
        "pairs=web_{language}",
        "base=Qwen_Qwen2.5-3B",
        "base=Qwen_Qwen2.5-7B",
        "aligned=de, layer=1",
    ]
    twice = grid.model_copy(update={"points": [{"updates": 5}, {"updates": 5}]})
    assert [point.label for point in plan_points(twice)][2:] == ["updates=5"]
    chinese = grid.model_copy(update={"points": [{"system_instruction": "是"}, {"system_instruction": "否"}]})
    assert len({record.record_file_name(f"g-{point.label}") for point in plan_points(chinese)}) == 4
    alike = grid.model_copy(update={"points": [{"system_instruction": "a b"}, {"system_instruction": "a?b"}]})
    with pytest.raises(
        RecipeError, match=r"'a b'.* and .*'a\?b'.* would both be called g-system_instruction=a-b"
    ):
        plan_points(alike)


@pytest.mark.parametrize(
    "points",
    [
        [{"base": "a/x/m"}, {"base": "b/x/m"}],
        [{"base": "a/x/m", "align.layer": 1}, {"base": "b/x/m", "align.layer": 2}],
        [{"base": "a/x/m"}, {"base": "b/x/m", "align.layer": 2}],
        [{"task": "a/x/data.yaml", "align.layer": 1}, {"task": "b/x/data.yaml", "align.layer": 2}],
        [{"align.pairs": "a/x/{language}.tsv"}, {"align.pairs": "b/x/{language}.tsv"}],
        [{"base": "x/m.tsv"}, {"base": "x/m.jsonl"}],
        [{"base": "a/m", "align.layer": 1}, {"base": "a/M", "align.layer": 2}],
    ],
    ids=str,
)
def test_points_that_would_share_a_folder_are_refused(points):
    with pytest.raises(RecipeError, match="would both be called"):
        plan_points(Grid(name="g", recipe="mini", points=points))


def test_one_point_with_its_keys_in_another_order_is_one_point():
    points = [{"updates": 5, "lora.r": 4}, {"lora.r": 4, "updates": 5}]
    assert len(plan_points(Grid(name="g", recipe="mini", points=points))) == 1


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({"grid": {"updates": [100, 200]}}, ["updates=50"], r"updates=\.\.\. overrides updates"),
        ({"grid": {"lora.r": [4, 8]}}, ["lora={r: 2}"], r"lora=\.\.\. overrides lora\.r"),
        ({"grid": {"updates": [1]}}, ["name=other"], "name cannot be set"),
        ({"grid": {"updates": [1]}, "changes": {"arms": {"x": {}}}}, [], "arms cannot be set"),
        ({"points": [{"arms": {"x": {"layer": 1}}}]}, [], r"arms\.x cannot be set"),
        ({"grid": {"evaluation.limit": [20, 40]}}, [], r"evaluation\.limit cannot differ between points"),
        ({"points": [{"output": "there"}]}, [], "output cannot differ between points"),
        ({"grid": {"updates": [1]}}, ["seeds=[1, 1]"], r"duplicate seeds in \[1, 1\]"),
        ({"grid": {"updates": [1]}}, ["seeds=[1"], r"'seeds=\[1': the value is not YAML"),
    ],
)
def test_what_would_make_points_other_than_their_labels_is_refused(values, overrides, message):
    with pytest.raises(RecipeError, match=message):
        plan_points(Grid(name="g", recipe="mini", **values), overrides)


def test_a_sweep_that_grows_keeps_what_is_trained():
    grid = Grid(name="g", recipe="mini", grid={"align.layer": [1, 2]}, points=[{"updates": 5}])
    grown = grid.model_copy(update={"grid": {"align.layer": [1, 2, 3]}, "merged": [0.5]})
    digests = [
        {(one.name, arm): one.digest(arm) for one in recipes_of_points(plan_points(of)) for arm in one.arms}
        for of in (grid, grown)
    ]
    assert digests[0].items() <= digests[1].items()
    assert digests[1].keys() - digests[0].keys() == {("g", "layer=3"), ("g", "alone")}


SWEEPS = sorted(file.name.removesuffix(".yaml") for file in (files("midalign") / "sweeps").iterdir())


@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_of_the_package_are_sound(name):
    grid = read_grid(name)
    points = plan_points(grid)
    assert grid.name == name
    assert len(points) > 2
    assert len({point.label for point in points}) == len(points)
    trained = {folder for one in recipes_of_points(points) for _, _, folder in training_runs(one)}
    merged = sum(point.weights is not None for point in points)
    baselines = {point.against.name for point in points}
    seeds = len(points[0].recipe.seeds)
    assert len(trained) == (len(baselines) + len(points) - merged + bool(merged)) * seeds


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_sweeps_of_the_package_find_their_languages_and_pairs(name, store_once, monkeypatch):
    monkeypatch.setenv("MIDALIGN_CACHE", store_once(massive, tatoeba, ntrex))
    for recipe in recipes_of_points(plan_points(read_grid(name))):
        check_roles(recipe)


def test_five_and_nineteen_languages_have_nothing_in_common_with_what_is_supervised_or_left_out():
    points = plan_points(read_grid("languages-massive"))
    assert {len(point.recipe.aligned) for point in points} == {1, 2, 5, 19}
    for point in points:
        recipe = point.recipe
        evaluated = recipe.evaluation.languages
        assert {*recipe.supervised, *recipe.aligned} <= {*evaluated}
        assert len(set(evaluated)) == len(evaluated) == 31


def test_merged_points_take_one_arm_of_alignment_alone():
    grid = Grid(name="g", recipe="mini", points=[{}, {"align.layer": 2}], merged=[0.25, 1.0])
    points = plan_points(grid, ["seeds=[1,2]"])
    (recipe,) = recipes_of_points(points)
    assert list(recipe.arms) == ["baseline", "aligned", "layer=2", "alone"]
    assert recipe.align_of("alone") == recipe.align.model_copy(update={"task": False})
    assert [point.label for point in points] == ["aligned", "layer=2", "merged=0.25", "merged=1"]
    only = plan_points(Grid(name="g", recipe="mini", merged=[1.0]))
    assert [point.scored for point in only] == [("g", "merged 1:1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: g\nrecipe: mini\n", "has no points"),
        ("name: g\nrecipe: mini\ngird: {}\n", "Did you mean grid"),
        ("name: g\nrecipe: mini\ngrid: {align.leyer: [1]}\n", "unknown key .*Did you mean layer"),
        ("name: [\n", "is not YAML"),
        ("name: g\nrecipe: mini\nchanges: {evaluate: false}\npoints: [{}]\n", "leaves nothing to compare"),
        ("name: g\nrecipe: mini\nchanges: {lora: null}\npoints: [{}]\n", "trains whole models"),
        ("name: g\nrecipe: mini\nmerged: [0.5, 0]\n", r"merged\.1: .*greater than 0"),
    ],
)
def test_mistakes_name_what_was_meant(tmp_path, text, message):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        plan_points(read_grid(str(file)))
    with pytest.raises(RecipeError, match=r"No sweep 'leyer'\. Did you mean layer"):
        read_grid("leyer")


def test_a_sweep_without_evaluation_is_refused_however_it_is_said():
    with pytest.raises(RecipeError, match=r"evaluate: false leaves nothing to compare.*midalign-train"):
        plan_points(read_grid("layer"), ["evaluate=false"])


def test_seeds_are_said_in_words():
    assert name_seeds([1]) == "seed 1"
    assert name_seeds([1, 2, 3]) == "seeds 1, 2, 3"


def changes_of(folder):
    """What an adapter adds to each weight, from peft's file by the formula of LoRA."""
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    scaling = config["lora_alpha"] / config["r"]
    return {
        name: scaling * weights[name.replace("lora_A", "lora_B")] @ a
        for name, a in weights.items()
        if "lora_A" in name
    }


@pytest.mark.exhaustive
@pytest.mark.slow
def test_an_interrupted_sweep_of_merged_points_goes_on_and_scores_what_was_merged(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("name: g\nrecipe: mini\nmerged: [0.25, 1.0]\n")
    changes = [*SMALL, "seeds=[1]", f"output={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "midalign", "sweep", str(file), *changes]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    merged = tmp_path / "out" / "g" / "merged"
    deadline = time.monotonic() + 300
    while not (merged / "1_1-seed1").is_dir():
        assert process.poll() is None, "the sweep ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to the evaluation as well
    _, said = process.communicate()
    assert process.returncode == 130, said
    assert "Rerun the same command to resume" in said
    folders = [*(tmp_path / "out" / "g" / "adapters").iterdir(), *merged.iterdir()]
    kept = {folder: (folder / "midalign.json").stat().st_mtime_ns for folder in folders}
    assert sorted(folder.name for folder in folders) == [
        "1_0.25-seed1",
        "1_1-seed1",
        "alone-seed1",
        "baseline-seed1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {folder: (folder / "midalign.json").stat().st_mtime_ns for folder in folders} == kept

    baseline, alone = (
        changes_of(tmp_path / "out" / "g" / "adapters" / f"{a}-seed1") for a in ("baseline", "alone")
    )
    for weight in (0.25, 1.0):
        whole = changes_of(merged / f"1_{weight:g}-seed1")
        assert whole.keys() == baseline.keys() | alone.keys()
        assert any(alone[name].norm() > 0 for name in alone)
        for name, change in whole.items():
            expected = baseline[name] + weight * alone[name]
            assert (change - expected).norm() <= 1e-5 * expected.norm()
    records = [record.read_record(path) for path in (tmp_path / "out" / "results").glob("*.json")]
    assert sorted(one.arm for one in records) == ["baseline", "merged 1:0.25", "merged 1:1"]
    for one in (one for one in records if one.arm.startswith("merged")):
        assert one.adapter.digest == adapter.adapter_digest(merged / f"1_{one.arm[9:]}-seed1")
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [row["point"] for row in rows] == ["merged=0.25"] * 2 + ["merged=1"] * 2

    # Of other parents than those that are there now, the one that is merged is made anew.
    stale = merged / "1_1-seed1" / "midalign.json"
    stale.write_text(
        stale.read_text().replace(
            adapter.adapter_digest(folders[0].parents[1] / "adapters" / "alone-seed1"), "0"
        )
    )
    points = plan_points(read_grid(str(file)), changes)
    assert adapters_to_score(points[0].recipe, points)[-1] == stale.parent
    assert {f: (f / "midalign.json").stat().st_mtime_ns == kept[f] for f in merged.iterdir()} == {
        merged / "1_0.25-seed1": True,
        merged / "1_1-seed1": False,
    }
    assert (changes_of(stale.parent)[name] - whole[name]).norm() == 0


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_says_what_its_records_say(tmp_path):
    file = tmp_path / "grid.yaml"
    file.write_text("name: g\nrecipe: mini\ngrid: {aligned: [[de], [tr]]}\n")
    command = [sys.executable, "-m", "midalign", "sweep", str(file), *SMALL, "seeds=[1]"]
    command += [f"output={tmp_path / 'out'}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    first = tmp_path / "out" / "g-aligned=de" / "adapters" / "aligned-seed1"
    deadline = time.monotonic() + 300
    while not first.is_dir():
        assert process.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = (first / "midalign.json").stat().st_mtime_ns
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (first / "midalign.json").stat().st_mtime_ns == kept
    # Without the lock file that a killed process may leave.
    adapters = sorted(
        str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*/adapters/[!.]*")
    )
    assert adapters == [
        "g-aligned=de/adapters/aligned-seed1",
        "g-aligned=de/adapters/baseline-seed1",
        "g-aligned=tr/adapters/aligned-seed1",
    ]

    records = {path.stem: record.read_record(path) for path in (tmp_path / "out" / "results").glob("*.json")}
    assert len(records) == 3

    def score(name, codes):
        tasks = records[name].tasks
        return mean(tasks[f"midalign_mini_slot_{code}"].metrics["slot_f1"].value for code in codes)

    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert len(rows) == 6
    for row in rows:
        own = row["point"].removeprefix("aligned=")
        codes = {"supervised": ["en"], "aligned": [own], "unseen": sorted({"de", "tr", "hi"} - {own})}[
            row["role"]
        ]
        change = score(f"g-aligned={own}-aligned-seed1", codes) - score("g-aligned=de-baseline-seed1", codes)
        assert float(row["change"]) == pytest.approx(change, abs=1e-4)
        assert float(row["low"]) <= float(row["change"]) <= float(row["high"])
    assert (tmp_path / "out" / "midalign_mini_slot.png").read_bytes().startswith(b"\x89PNG")
    assert "aligned=de" in done.stdout

    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "results").iterdir()}
    subprocess.run(command, capture_output=True, check=True)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "results").iterdir()} == written
    assert json.loads((first / "midalign.json").read_text())["recipe"]["name"] == "g-aligned=de"
