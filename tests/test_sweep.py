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

from midalign import record, sweep
from midalign.errors import RecipeError
from midalign.sweep import Grid

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
    points = sweep.plan(grid, ["seeds=[4]", "output=/there"])
    (recipe,) = sweep.recipes_of(points)
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
    points = sweep.plan(grid)
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


def test_sweeps_of_the_package_are_sound():
    for file in (files("midalign") / "sweeps").iterdir():
        points = sweep.plan(sweep.read(file.name.removesuffix(".yaml")))
        assert len(points) > 2
        assert len({point.label for point in points}) == len(points)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: g\nrecipe: mini\n", "has no points"),
        ("name: g\nrecipe: mini\ngird: {}\n", "Did you mean grid"),
        ("name: g\nrecipe: mini\ngrid: {align.leyer: [1]}\n", "unknown key .*Did you mean layer"),
        ("name: [\n", "is not YAML"),
        ("name: g\nrecipe: mini\nchanges: {evaluate: false}\npoints: [{}]\n", "leaves nothing to compare"),
    ],
)
def test_mistakes_name_what_was_meant(tmp_path, text, message):
    file = tmp_path / "grid.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        sweep.plan(sweep.read(str(file)))
    with pytest.raises(RecipeError, match=r"No sweep 'leyer'\. Did you mean layer"):
        sweep.read("leyer")


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
    adapters = sorted(str(path.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/*/adapters/*"))
    assert adapters == [
        "g-aligned=de/adapters/aligned-seed1",
        "g-aligned=de/adapters/baseline-seed1",
        "g-aligned=tr/adapters/aligned-seed1",
    ]

    records = {path.stem: record.read(path) for path in (tmp_path / "out" / "results").glob("*.json")}
    assert len(records) == 4

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
