"""Models of different bases on the items that they share."""

import json
import re

import numpy as np
import pytest
from synthetic_records import counts, share, simulated, write

from midalign.leaderboard.across_bases import rank_across_bases
from midalign.leaderboard.build import build_board
from midalign.leaderboard.load import load_runs
from midalign.leaderboard.sections import group_runs
from midalign.metrics.slot import METRICS

DIFFICULTY = np.random.default_rng(1).random(400)


def simulate(seed, quality, codes=("en", "de", "fr")):
    rng = np.random.default_rng(seed)
    return {code: simulated(rng, quality, DIFFICULTY) for code in codes}


def overviews(folder):
    return rank_across_bases(group_runs(load_runs(folder)))


@pytest.fixture
def two_bases(tmp_path):
    """Two seeds of arms on two bases. `small` lacks Swahili, and has other prompts."""
    for seed in (1, 2):
        write(
            tmp_path,
            f"l{seed}",
            "baseline",
            simulate(seed, 0.6, ("en", "de", "fr", "sw")),
            seed=seed,
            base="large",
        )
        aligned = simulate(10 + seed, 0.9, ("en", "de", "fr", "sw"))
        write(tmp_path, f"la{seed}", "aligned", aligned, seed=seed, base="large")
        small = simulate(20 + seed, 0.3)
        write(tmp_path, f"s{seed}", "baseline", small, seed=seed, base="small", prompt="other")
        again = simulate(30 + seed, 0.61)
        write(tmp_path, f"sa{seed}", "aligned", again, seed=seed, base="small", prompt="other")
    return tmp_path


def test_models_are_ranked_with_the_ranks_that_their_intervals_allow(two_bases):
    (overview,) = overviews(two_bases)
    assert overview.section.languages == ["de", "en", "fr"]
    assert overview.missing == ["sw"]
    assert overview.differing == ["base", "prompts"]
    assert overview.sets["aligned"] == ["de"]
    assert overview.sets["unseen"] == ["fr"]
    ranks = {model.label: model.ranks["all"] for model in overview.models}
    assert ranks == {
        "large: aligned": (1, 1),
        "small: aligned": (2, 3),
        "large: baseline": (2, 3),
        "small: baseline": (4, 4),
    }
    assert list(ranks) == sorted(ranks, key=lambda label: ranks[label])


def test_scores_are_the_headline_of_the_counts(two_bases):
    (overview,) = overviews(two_bases)
    (model,) = (model for model in overview.models if model.label == "large: aligned")
    expected = [
        METRICS["slot_f1"](simulate(10 + seed, 0.9, ("en", "de", "fr", "sw"))["fr"].sum(axis=0))
        for seed in (1, 2)
    ]
    assert model.scores["fr"].value == pytest.approx(np.mean(expected))
    means = [model.scores[code].value for code in ("en", "de", "fr")]
    assert model.scores["all"].value == pytest.approx(np.mean(means))


def test_one_base_or_other_items_give_no_overview(tmp_path):
    rows = {"en": share(20, 9), "de": share(20, 5)}
    write(tmp_path, "one", "base", rows, base="one")
    write(tmp_path, "two", "aligned", rows, seed=1, base="one")
    assert overviews(tmp_path) == []
    other = {"doc_ids": {"en": range(20, 40), "de": range(20, 40)}}
    write(tmp_path, "three", "base", rows, base="two", **other)
    write(tmp_path, "four", "base", rows, base="three", limit=20)
    write(tmp_path, "five", "base", rows, base="four", version=2.0)
    assert overviews(tmp_path) == []


def test_labels_are_unique(tmp_path):
    rows = {"en": share(20, 9), "de": share(20, 5)}
    roles = {"supervised": ["en"], "aligned": ["de"], "unseen": []}
    write(tmp_path, "plain", "base", rows, base="other")
    write(tmp_path, "a", "aligned", rows, seed=1, recipe="first")
    write(tmp_path, "b", "aligned", rows, seed=1, recipe="second", roles=roles)
    (overview,) = overviews(tmp_path)
    labels = sorted(model.label for model in overview.models)
    assert labels == ["mini: aligned (first)", "mini: aligned (second)", "other: base"]
    assert {model.ranks["all"] for model in overview.models} == {(1, 3)}  # equal scores


def test_seeds_are_paired_within_a_base(tmp_path):
    """Two seeds differ by 30 points, and each gains 10: only the paired difference is shown."""
    for seed, right in ((1, 120), (2, 240)):
        for arm, gain in (("baseline", 0), ("aligned", 40)):
            write(tmp_path, f"{arm}{seed}", arm, {"en": share(400, right + gain)}, seed=seed, base="one")
    write(tmp_path, "other", "base", {"en": share(400, 10)}, base="two")
    (overview,) = overviews(tmp_path)
    ranks = {model.label: model.ranks["all"] for model in overview.models}
    assert ranks["one: aligned"][0] == 1
    assert ranks["one: baseline"][0] == 2


def test_an_undefined_score_has_no_rank(tmp_path):
    rows = {"en": share(20, 9), "de": share(20, 5)}
    write(tmp_path, "one", "base", rows, base="one")
    write(tmp_path, "two", "base", rows | {"de": counts([0] * 20, [0] * 20, [0] * 20)}, base="two")
    (overview,) = overviews(tmp_path)
    assert all(model.ranks["de"] == (1, 2) for model in overview.models)


def test_board_has_the_overview_in_its_contents_and_data(two_bases, tmp_path):
    build_board(two_bases, tmp_path / "board")
    text = (tmp_path / "board" / "README.md").read_text()
    assert "\n## midalign_mini_slot across bases, full test split\n" in text
    assert "(#midalign_mini_slot-across-bases-full-test-split) | 4 | 2 | 400 | 3 |" in text
    assert re.search(r"\| large: aligned \| 1 2 \|.*\(1\)", text)
    assert "**Not the same for all models: base, prompts.**" in text
    board = json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    (overview,) = board["across_bases"]
    assert overview["models"][0]["label"] == "large: aligned"
