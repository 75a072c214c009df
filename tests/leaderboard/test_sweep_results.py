"""What a sweep's points are worth, from records whose scores are known."""

import pytest
from synthetic_records import counts, share, write

from midalign.cli.sweep import _losses_table, _table
from midalign.errors import RecordError
from midalign.sweep.grid import Grid
from midalign.sweep.point_results import read_results
from midalign.sweep.points import plan_points
from midalign.sweep.result_files import write_results

N = 40
LANGUAGES = ("en", "de", "tr", "hi", "ja")


def scored(folder, name, arm, recipe, seed, right):
    """A record in which each language has its number of right items of N."""
    by_language = {code: share(N, of) for code, of in zip(LANGUAGES, right, strict=True)}
    write(folder, f"{name}-seed{seed}", arm, by_language, recipe=recipe, seed=seed)


def test_merged_points_are_held_against_the_baseline_that_they_were_merged_into(tmp_path):
    """The alignment-only arm belongs to another recipe, and what it was merged into names the records."""
    grid = Grid(name="g", recipe="mini", grid={"aligned": [["de"], ["de", "tr"]]}, merged=[0.5, 1])
    points = plan_points(grid, ["seeds=[1, 2]"])
    assert [point.label for point in points] == ["aligned=de", "aligned=de+tr", "merged=0.5", "merged=1"]
    for seed in (1, 2):
        scored(tmp_path, "baseline", "baseline", "g-aligned=de", seed, (20, 4, 4, 4, 4))
        scored(tmp_path, "one", "aligned", "g-aligned=de", seed, (20, 8, 4, 4, 4))
        scored(tmp_path, "two", "aligned", "g-aligned=de+tr", seed, (20, 8, 6, 4, 4))
        scored(tmp_path, "half", "merged 1:0.5", "g-aligned=de", seed, (18, 6, 7, 8, 5 + seed))
    with pytest.raises(RecordError, match=r"No record of .* arm merged 1:1 of g-aligned=de, seed 1"):
        read_results(points, tmp_path)
    for seed in (1, 2):
        scored(tmp_path, "whole", "merged 1:1", "g-aligned=de", seed, (10, 4, 4, 4, 4))
    found = {one.label: one for one in read_results(points, tmp_path)}
    half = found["merged=0.5"]
    # The recipe's own roles: it aligns de, tr and hi, and ja is what is left.
    assert {role: change.value for role, change in half.change.items()} == pytest.approx(
        {"supervised": -2 / N, "aligned": (2 + 3 + 4) / 3 / N, "unseen": 2.5 / N}
    )
    assert half.by_seed["unseen"] == pytest.approx([2 / N, 3 / N])
    assert found["merged=1"].change["supervised"].value == pytest.approx(-10 / N)
    assert found["aligned=de"].change["aligned"].value == pytest.approx(4 / N)


def test_directions_have_the_roles_that_the_board_gives_them(tmp_path):
    points = plan_points(Grid(name="g", recipe="mini", points=[{}]), ["task=midalign_mini_mt", "seeds=[1]"])
    right = {"en-es": (20, 24), "de-en": (4, 8), "en-de": (4, 10), "en-ja": (4, 2)}
    for place, arm in enumerate(("baseline", "aligned")):
        by_direction = {code: share(N, of[place]) for code, of in right.items()}
        write(tmp_path, arm, arm, by_direction, recipe="g", seed=1)
    (found,) = read_results(points, tmp_path)
    assert {role: change.value for role, change in found.change.items()} == pytest.approx(
        {"supervised": 4 / N, "aligned": 5 / N, "unseen": -2 / N}
    )


def test_tasks_as_points_are_each_held_against_their_own_baseline(tmp_path):
    grid = Grid(name="g", recipe="mini", grid={"task": ["midalign_mini_slot", "midalign_slot"]})
    points = plan_points(grid, ["seeds=[1]"])
    for task, right in (("midalign_mini_slot", 8), ("midalign_slot", 10)):
        for arm, of in (("baseline", 4), ("aligned", right)):
            by_language = {code: share(N, of) for code in LANGUAGES}
            write(tmp_path, f"{task}-{arm}", arm, by_language, recipe=f"g-task={task}", seed=1, group=task)
    found = read_results(points, tmp_path)
    assert {(one.group, one.label): one.change["aligned"].value for one in found} == pytest.approx(
        {
            ("midalign_mini_slot", "task=midalign_mini_slot"): 4 / N,
            ("midalign_slot", "task=midalign_slot"): 6 / N,
        }
    )
    for file in tmp_path.glob("midalign_slot-*"):
        file.unlink()
    with pytest.raises(
        RecordError, match="No record of midalign_slot for arm aligned of g-task=midalign_slot"
    ):
        read_results(points, tmp_path)


def test_records_of_an_earlier_form_of_the_sweep_are_left_aside(tmp_path):
    points = plan_points(Grid(name="g", recipe="mini", grid={"aligned": [["de"]]}), ["seeds=[1]"])
    scored(tmp_path, "baseline", "baseline", "g-aligned=de", 1, (20, 4, 4, 4, 4))
    scored(tmp_path, "one", "aligned", "g-aligned=de", 1, (20, 8, 4, 4, 4))
    before = read_results(points, tmp_path)
    write(tmp_path, "a", "aligned", {"en": share(9, 1)}, recipe="g-aligned=tr", seed=1)
    assert read_results(points, tmp_path) == before
    write(
        tmp_path,
        "one-seed1",
        "aligned",
        {code: share(N + 1, 4) for code in LANGUAGES},
        recipe="g-aligned=de",
        seed=1,
    )
    with pytest.raises(RecordError, match=r"baseline-seed1\.json and one-seed1\.json have different items"):
        read_results(points, tmp_path)


def test_constrained_records_do_not_take_the_place_of_free_ones(tmp_path):
    points = plan_points(Grid(name="g", recipe="mini", grid={"aligned": [["de"]]}), ["seeds=[1]"])
    scored(tmp_path, "baseline", "baseline", "g-aligned=de", 1, (20, 4, 4, 4, 4))
    scored(tmp_path, "one", "aligned", "g-aligned=de", 1, (20, 8, 4, 4, 4))
    before = read_results(points, tmp_path)
    perfect = {code: share(N, N) for code in LANGUAGES}
    key = {"recipe": "g-aligned=de", "seed": 1}
    write(tmp_path, "one-seed1-constrained", "aligned", perfect, **key, decoding={"regime": "constrained"})
    assert read_results(points, tmp_path) == before
    write(tmp_path, "two-seed1", "aligned", perfect, **key)
    with pytest.raises(
        RecordError, match=r"one-seed1\.json and two-seed1\.json .* two records of arm aligned"
    ):
        read_results(points, tmp_path)


def test_a_point_that_leaves_no_language_unseen_has_its_place_in_table_and_plot(tmp_path):
    grid = Grid(name="g", recipe="mini", grid={"aligned": [["de", "tr", "hi", "ja"], ["de"]]})
    points = plan_points(grid, ["seeds=[1]"])
    scored(tmp_path, "baseline", "baseline", "g-aligned=de+tr+hi+ja", 1, (20, 4, 4, 4, 4))
    scored(tmp_path, "four", "aligned", "g-aligned=de+tr+hi+ja", 1, (20, 8, 8, 8, 8))
    scored(tmp_path, "one", "aligned", "g-aligned=de", 1, (20, 6, 4, 4, 4))
    found = read_results(points, tmp_path)
    assert [list(one.change)[2:] for one in found] == [[], ["unseen"]]
    written = {path.name: path.read_bytes() for path in write_results(found, tmp_path)}
    assert written["midalign_mini_slot.png"].startswith(b"\x89PNG")
    assert [[cell[:5] for cell in column._cells] for column in _table("g", found).columns[1:]] == [
        ["+0.0 ", "+0.0 "],
        ["+10.0", "+5.0 "],
        ["", "+0.0 "],
    ]


def test_a_sweep_says_where_slots_are_lost(tmp_path):
    """The baseline answers half of the German items with none, the point one in four."""
    points = plan_points(Grid(name="g", recipe="mini", grid={"aligned": [["de"]]}), ["seeds=[1]"])
    for arm, answered in (("baseline", 20), ("aligned", 30)):
        some = [1] * answered + [0] * (N - answered)
        by_language = {code: share(N, 4) for code in LANGUAGES}
        by_language["de"] = counts([0] * N, some, [1] * N)
        write(tmp_path / "results", arm, arm, by_language, recipe="g-aligned=de", seed=1)
    found = read_results(points, tmp_path / "results")
    score, change = found[0].losses["missed"]["aligned"]
    assert (score, change.value) == (0.25, -0.25)
    assert change.low < change.value < change.high < 0
    assert found[0].losses["false_alarms"] == {}  # every item has slots
    path = next(path for path in write_results(found, tmp_path) if path.name == "where_slots_are_lost.csv")
    assert "midalign_mini_slot,aligned=de,missed,aligned,1,0.2500,-0.2500," in path.read_text()
    table = _losses_table(found)
    assert [column._cells[0][:5] for column in table.columns] == ["misse", "align", "+0.0 ", "-25.0", "+0.0 "]
