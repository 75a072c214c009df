"""What a run does with checkpoints and disks, without training."""

import errno
import json
import shutil
from collections import namedtuple

import pytest

from midalign.errors import RecipeError
from midalign.train import recipe as recipes
from midalign.train import run


def test_a_full_disk_is_named_and_other_errors_pass(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 0))
    with pytest.raises(OSError, match="No space left") as caught, run.full_disks_named(tmp_path):
        raise RuntimeError("unexpected pos 1142592 vs 1142480")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 0, 1 << 30))
    with pytest.raises(RuntimeError, match="shapes"), run.full_disks_named(tmp_path):
        raise RuntimeError("shapes differ")


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path):
    for step, state in ((9, "{}"), (50, '{"global_step": 5'), (100, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert run._last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]


def test_checkpoints_of_other_settings_are_refused_with_the_difference(tmp_path):
    work = tmp_path / "work"
    run._claim(work, recipes.load("mini", ["updates=7"]), "aligned")
    (work / "best").mkdir()  # measured, before a checkpoint was kept
    run._claim(work, recipes.load("mini"), "aligned")
    assert [path.name for path in work.iterdir()] == ["recipe.json"]
    (work / "checkpoint-1").mkdir()
    run._claim(work, recipes.load("mini", ["save_every=7"]), "aligned")  # does not decide the weights
    with pytest.raises(RecipeError, match=r"begun with other settings \(updates\)"):
        run._claim(work, recipes.load("mini", ["updates=7"]), "aligned")
    kept = json.loads((work / "recipe.json").read_text())
    assert kept["recipe"]["updates"] == recipes.load("mini").updates


def test_pairs_files_decide_by_what_they_hold(tmp_path):
    def load(folder, text):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "de.tsv").write_text(text)
        pairs = f"align.pairs={tmp_path}/{folder}/{{language}}.tsv"
        return recipes.load("mini", [pairs, "aligned=[de]"])

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
    with pytest.raises(RecipeError, match=r"other settings \(other files of align\.pairs\)"):
        run._claim(tmp_path / "work", first, "aligned")
