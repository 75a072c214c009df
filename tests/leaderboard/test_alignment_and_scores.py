"""How languages' alignment goes with their scores in records, and what a sweep misses among them."""

import dataclasses

import numpy as np
import pytest
from synthetic_records import sha, share, write

from midalign.analyze import report
from midalign.errors import RecordError
from midalign.leaderboard.load import load_runs
from midalign.sweep.grid import Grid
from midalign.sweep.point_results import read_results
from midalign.sweep.points import plan_points

ALIGNED = {"de": 0.8, "es": 0.9, "sw": 0.3, "fr": 0.5, "hi": 0.1}


def scores(**right):
    return {code: share(20, count) for code, count in right.items()}


def test_correlations_are_of_the_very_model_and_of_each_group_alone(tmp_path):
    own = scores(en=20, de=15, es=18, sw=6, fr=9, hi=2)  # en and es are supervised, their scores no transfer
    write(tmp_path, "one", "aligned", own, seed=1)
    write(tmp_path, "two", "aligned", scores(en=1, de=1, es=2, sw=9, fr=5, hi=1), seed=2)
    write(tmp_path, "plain", "base", scores(en=1, de=3, es=2, sw=1, fr=5, hi=1))
    other = scores(de=1, hi=2, sw=9, fr=5)
    write(tmp_path / "other", "one", "aligned", other, group="midalign_slot", seed=1)
    runs = load_runs(tmp_path)
    found = report.correlate_scores(ALIGNED, report.select_runs(runs, sha("mini"), sha("one"), "t"))
    assert {one.group: one.languages for one in found} == {"midalign_mini_slot": 4, "midalign_slot": 4}
    expected = {
        "midalign_mini_slot": np.corrcoef([0.8, 0.3, 0.5, 0.1], [15, 6, 9, 2])[0, 1],
        "midalign_slot": np.corrcoef([0.8, 0.3, 0.5, 0.1], [1, 9, 5, 2])[0, 1],
    }
    assert {one.group: one.pearson for one in found} == pytest.approx(expected)
    for one in found:  # Fisher's transformation
        bounds = np.tanh(np.arctanh(expected[one.group]) + np.array([-1.959964, 1.959964]) / np.sqrt(4 - 3))
        assert one.interval == pytest.approx(bounds)
    (base,) = report.select_runs(runs, sha("mini"), None, "t")
    assert base.record.name == "plain"
    with pytest.raises(RecordError, match="vary over fewer than 4"):
        report.correlate_scores({"de": 0.1, "es": 0.2, "sw": 0.3, "fr": 0.2}, [base])
    for digests in ((sha("mini"), sha("three"), "t"), (sha("gemma"), None, "t")):
        with pytest.raises(RecordError, match="No record of this model"):
            report.select_runs(runs, *digests)


def test_scores_of_another_tokenizer_are_not_the_models(tmp_path):
    write(tmp_path, "one", "base", scores(de=15, sw=6), tokenizer="a")
    runs = load_runs(tmp_path)
    assert report.select_runs(runs, sha("mini"), None, sha("a")) == runs
    with pytest.raises(RecordError, match="No record of this model"):
        report.select_runs(runs, sha("mini"), None, sha("b"))


def test_a_direction_with_english_counts_for_its_other_language(tmp_path):
    directions = {"en-de": 10, "de-en": 14, "en-hi": 18, "hi-en": 18, "en-sw": 2, "fr-en": 9, "fr-sw": 20}
    write(tmp_path, "plain", "base", scores(**directions), group="midalign_mt")
    (found,) = report.correlate_scores(ALIGNED, load_runs(tmp_path))
    assert found.languages == 4
    assert found.pearson == pytest.approx(np.corrcoef([0.8, 0.1, 0.3, 0.5], [12, 18, 2, 9])[0, 1])


def test_a_sweep_names_the_record_that_it_misses(tmp_path):
    grid = Grid(name="g", recipe="mini", grid={"align.layer": [1, 2]})
    points = plan_points(grid, ["seeds=[1]"])
    for arm in ("baseline", "layer=1"):
        write(tmp_path, f"g-{arm}", arm, scores(en=9, de=5), seed=1, recipe="g")
    (point, other) = points
    assert read_results([point], tmp_path)[0].change["aligned"].value == 0
    with pytest.raises(RecordError, match="for arm layer=2 of g, seed 1"):
        read_results([point, other], tmp_path)
    more = dataclasses.replace(point, recipe=point.recipe.model_copy(update={"seeds": [1, 2]}))
    with pytest.raises(RecordError, match="for arm layer=1 of g, seed 2"):
        read_results([more], tmp_path)


def test_languages_are_matched_across_codes(tmp_path):
    """NTREX has `zh_cn` and `zh_tw`, the mini benchmark `zh`. Its one score counts once."""
    analysed = {"de": 0.8, "zh_cn": 0.3, "zh_tw": 0.9, "hi": 0.1, "fr": 0.5}
    write(tmp_path, "plain", "base", scores(de=15, zh=6, hi=2, fr=9))
    (found,) = report.correlate_scores(analysed, load_runs(tmp_path))
    assert found.languages == 4
    assert found.pearson == pytest.approx(np.corrcoef([0.8, 0.3, 0.1, 0.5], [15, 6, 2, 9])[0, 1])


def test_a_language_that_was_supervised_under_another_code_is_left_out(tmp_path):
    analysed = {"de": 0.8, "zh_cn": 0.3, "hi": 0.1, "fr": 0.5, "sw": 0.4}
    by_language = scores(de=15, zh=6, hi=2, fr=9, sw=3)
    roles = {"supervised": ["en", "zh_cn"], "aligned": [], "unseen": ["de", "hi", "fr", "sw"]}
    write(tmp_path, "one", "baseline", by_language, seed=1, roles=roles)
    (found,) = report.correlate_scores(analysed, load_runs(tmp_path))
    assert found.languages == 4
