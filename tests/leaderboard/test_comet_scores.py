"""COMET on the board: differences in pairs, by direction, never shown where they cannot be compared."""

import json
import random
import re

import numpy as np
import pytest
from synthetic_records import share, write

from midalign import record
from midalign.errors import RecordError
from midalign.leaderboard.build import build_board
from midalign.leaderboard.comet_comparison import compare_by_comet
from midalign.leaderboard.compare import compare_models
from midalign.leaderboard.load import load_runs
from midalign.leaderboard.sections import group_runs

N = 200
CODES = ("en", "es", "de", "sw", "fr")


def scores(seed, shift):
    """Millionths by language: hard and easy items, the same for all models, and a little of their own."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    return {
        code: np.rint(1e6 * (0.6 + shift * i + shared.normal(0, 0.2, N) + own.normal(0, 0.02, N))).astype(int)
        for i, code in enumerate(CODES)
    }


def arms(folder, *, base=None, baseline=None, aligned=None, **changed):
    """Three records; a language that is left out of one has no score there."""
    table = {code: share(N, N // 2) for code in CODES}
    write(folder, "base", "base", table, comet=base)
    write(folder, "baseline", "baseline", table, seed=1, comet=baseline)
    write(folder, "aligned", "aligned", table, seed=1, comet=aligned, **changed)


def comet_of(folder):
    (section,) = group_runs(load_runs(folder))
    return compare_by_comet(section)


def test_differences_are_means_of_pairs_with_intervals(tmp_path):
    before, after = scores(1, 0.0), scores(2, 0.01)
    arms(tmp_path, base=scores(3, 0.0), baseline=before, aligned=after)
    comet = comet_of(tmp_path)
    assert comet.directions == sorted(CODES)
    (difference,) = comet.differences
    assert (difference.model, difference.baseline) == ("aligned", "baseline")
    for code in CODES:
        assert comet.models["baseline"][code].value == pytest.approx(before[code].mean() / 1e6)
        change = (after[code] - before[code]) / 1e6
        assert difference.languages[code].value == pytest.approx(change.mean())
        low, high = brute_force(change)
        assert difference.languages[code].low == pytest.approx(low, abs=5e-4)
        assert difference.languages[code].high == pytest.approx(high, abs=5e-4)
    # de and sw are aligned.
    both = np.mean([(after[code] - before[code]).mean() / 1e6 for code in ("de", "sw")])
    assert difference.means["aligned"].value == pytest.approx(both)
    assert difference.means["aligned"].low > 0


def brute_force(change):
    draw = random.Random(5)
    means = sorted(np.mean(draw.choices(change.tolist(), k=N)) for _ in range(2000))
    return means[50], means[-51]


def test_only_directions_that_every_record_has(tmp_path):
    some = {code: values for code, values in scores(2, 0.0).items() if code != "sw"}
    arms(tmp_path, base=scores(3, 0.0), baseline=scores(1, 0.0), aligned=some)
    comet = comet_of(tmp_path)
    assert comet.directions == ["de", "en", "es", "fr"]
    assert comet.differences[0].means["aligned"] == comet.differences[0].languages["de"]
    page = board(tmp_path)
    assert "on 4 of the 5 directions" in page


def test_nothing_is_shown_of_two_models_or_of_none(tmp_path):
    arms(tmp_path, base=scores(3, 0.0), baseline=scores(1, 0.0), aligned=scores(2, 0.0), comet_model="other")
    assert comet_of(tmp_path) is None
    page = board(tmp_path)
    assert "COMET is not shown: no direction has scores of all these records by one COMET model." in page
    assert "COMET by direction" not in page


def test_a_board_without_comet_does_not_speak_of_it(tmp_path):
    arms(tmp_path)
    assert "COMET" not in board(tmp_path)
    assert "comet" not in (tmp_path / "board" / "leaderboard.json").read_text("utf-8")


def test_the_page_and_its_figures(tmp_path):
    before, after = scores(1, 0.0), scores(2, 0.01)
    arms(tmp_path, base=scores(3, 0.0), baseline=before, aligned=after)
    page = board(tmp_path)
    (row,) = re.findall(r"^\| Swahili `sw` .*$", page.partition("### COMET by direction")[2], re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")[5:-1]]
    wanted = [f"{values['sw'].mean() / 1e4:.1f} ± " for values in (scores(3, 0.0), before, after)]
    assert all(cell.startswith(start) for cell, start in zip(cells, wanted, strict=False))
    assert cells[3].startswith(f"+{(after['sw'] - before['sw']).mean() / 1e4:.1f} [")
    assert "| mean of 2 | aligned |  |  | – | – | – | +" in page
    assert re.search(r"aligned minus baseline, COMET × 100: aligned languages \(2\): \*\*\+", page)
    (section,) = json.loads((tmp_path / "board" / "leaderboard.json").read_text("utf-8"))["sections"]
    assert section["comet"]["name"] == "comet"
    assert section["comet"]["models"]["aligned"]["sw"]["value"] == pytest.approx(after["sw"].mean() / 1e6)


def board(folder):
    build_board(folder, folder / "board")
    return (folder / "board" / "README.md").read_text("utf-8")


def test_items_are_paired_by_their_ids(tmp_path):
    before, after = scores(1, 0.0), scores(2, 0.01)
    order = np.random.default_rng(9).permutation(N)
    shuffled = {code: values[order] for code, values in after.items()}
    arms(tmp_path, base=scores(3, 0.0), baseline=before, aligned=after)
    (straight,) = comet_of(tmp_path).differences
    ids = dict.fromkeys(CODES, order.tolist())
    table = {code: share(N, N // 2)[order] for code in CODES}
    write(tmp_path, "aligned", "aligned", table, seed=1, comet=shuffled, doc_ids=ids)
    (mixed,) = comet_of(tmp_path).differences
    assert mixed == straight


def test_a_record_whose_comet_does_not_follow_from_its_items_is_refused(tmp_path):
    arms(tmp_path, base=scores(3, 0.0), baseline=scores(1, 0.0), aligned=scores(2, 0.0))
    file = tmp_path / "aligned.json"
    text = file.read_text("utf-8")
    entry = json.loads(text)
    task = entry["tasks"]["midalign_mini_slot_sw"]
    task["comet"]["value"] += 0.01
    file.write_text(json.dumps(entry), "utf-8")
    with pytest.raises(RecordError, match=r"aligned.json: midalign_mini_slot_sw says COMET .* was altered"):
        load_runs(tmp_path)
    task["comet"] = None
    file.write_text(json.dumps(entry), "utf-8")
    with pytest.raises(RecordError, match="has COMET's scores in one of its two files"):
        load_runs(tmp_path)


def test_a_record_keeps_scores_by_item(tmp_path):
    before = scores(1, 0.0)
    del before["fr"]
    arms(tmp_path, baseline=before)
    items = record.read_items(tmp_path / "baseline.json")
    assert items["midalign_mini_slot_fr"].comet is None
    assert (items["midalign_mini_slot_sw"].comet == before["sw"]).all()


def test_other_figures_are_untouched(tmp_path):
    arms(tmp_path / "with", base=scores(3, 0.0), baseline=scores(1, 0.0), aligned=scores(2, 0.0))
    arms(tmp_path / "without")
    (one,), (other,) = (group_runs(load_runs(tmp_path / name)) for name in ("with", "without"))
    assert compare_models(one) == compare_models(other)
