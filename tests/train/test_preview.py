"""`--dry-run` as a user types it."""

import subprocess
import sys

import pytest

from midalign.errors import RecipeError
from midalign.train.preview import preview
from midalign.train.recipe import load_recipe

COMMAND = [sys.executable, "-c", "from midalign.cli.train import main; main()"]


def dry_run(*words):
    done = subprocess.run([*COMMAND, *words, "--dry-run"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_shows_what_would_be_trained_and_keeps_nothing(tmp_path):
    shown = dry_run("mini", f"output={tmp_path}/out", "samples_per_update=4", "align.pairs_per_update=4")
    assert "task samples: en 1,500, es 1,500, ru 1,500, zh 1,500" in shown
    assert shown.count(">>>") == 2 * 3  # in the heading and around the target
    assert ">>> genre: jazz; device: TV<|end|><<<" in shown
    assert "0 samples truncated to max_tokens=512" in shown
    assert "arm baseline: 300 updates" in shown
    assert "arm aligned: 300 updates, aligned after block 4" in shown
    assert "pairs per language: de 1,500, tr 1,500, hi 1,500" in shown
    assert shown.count("GB measured") == 2
    assert not (tmp_path / "out").exists()


def test_arms_are_those_asked_for():
    small = load_recipe("mini", ["samples_per_update=4", "align.pairs_per_update=4", "updates=2"])
    shown = "\n".join(preview(small, ["aligned"]))
    assert "arm aligned: 2 updates" in shown
    assert "arm baseline" not in shown
    with pytest.raises(RecipeError, match=r"no arm 'alinged'. Did you mean aligned"):
        next(preview(small, ["alinged"]))


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.data
@pytest.mark.usefixtures("massive_cache")
@pytest.mark.parametrize("recipe", ["massive-llama3-8b", "massive-qwen2.5-7b"])
def test_recipes_for_bases_that_are_not_here(recipe):
    """The paper's settings, shown on a stand-in of the same form with a chat template."""
    shown = dry_run(recipe, "base=mini", "align.layer=middle", "align.pairs=massive", "samples_per_update=4")
    assert "task samples: en 11,514, de 11,514, es 11,514, ru 11,514, zh_cn 11,514" in shown
    assert "<|assistant|>" in shown
    assert "arm aligned: 4500 updates" in shown
