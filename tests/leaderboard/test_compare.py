"""Figures and intervals against hand computation, a bootstrap in plain Python, and simulation."""

import json
import random

import numpy as np
import pytest
from synthetic_records import counts, share, simulated, write

from midalign.leaderboard import statistics
from midalign.leaderboard.build import build_board
from midalign.leaderboard.compare import compare_models
from midalign.leaderboard.formatting import format_with_error
from midalign.leaderboard.load import load_runs
from midalign.leaderboard.result_sentences import describe_results
from midalign.leaderboard.sections import group_runs
from midalign.leaderboard.statistics import DRAWS, bootstrap
from midalign.leaderboard.tables import retrieval_cell, retrieval_columns
from midalign.metrics.slot import COLUMNS, HEADLINE, METRICS

# F1 in per cent over 100 items of one slot: supervised 80 and 60, aligned 30 and 10, unseen 40.
BASELINE = {"en": 80, "es": 60, "de": 30, "sw": 10, "fr": 40}
ALIGNED = {"en": 78, "es": 60, "de": 40, "sw": 20, "fr": 37}


def shares(scores):
    return {code: share(100, right) for code, right in scores.items()}


def only_section(folder):
    (section,) = group_runs(load_runs(folder))
    return section


def by_label(models):
    return {model.label: model for model in models}


@pytest.fixture
def two_arms(tmp_path):
    write(tmp_path, "base", "base", shares(dict.fromkeys(BASELINE, 5)))
    write(tmp_path, "baseline", "baseline", shares(BASELINE), seed=1)
    write(tmp_path, "aligned", "aligned", shares(ALIGNED), seed=1)
    return only_section(tmp_path)


def test_means_and_gaps_by_hand(two_arms):
    model = by_label(compare_models(two_arms)[0])["baseline"]
    means = {name: estimate.value for name, estimate in model.means[HEADLINE].items()}
    assert means["supervised"] == pytest.approx(0.70)
    assert means["aligned"] == pytest.approx(0.20)
    assert means["unseen"] == pytest.approx(0.40)
    assert means["all"] == pytest.approx(0.44)
    # en, es, de and fr are high (Joshi 5); sw is low (2); none is mid.
    assert means["high"] == pytest.approx((0.8 + 0.6 + 0.3 + 0.4) / 4)
    assert means["low"] == pytest.approx(0.10)
    assert "mid" not in means
    assert model.gap["aligned"].value == pytest.approx(0.50)
    assert model.gap["unseen"].value == pytest.approx(0.30)
    # Non-supervised: 30, 10 and 40, mean 26.67.
    assert model.gap["non-supervised"].value == pytest.approx(0.70 - 0.80 / 3)


def test_differences_and_gap_closed_by_hand(two_arms):
    _, (difference,) = compare_models(two_arms)
    assert (difference.model, difference.baseline) == ("aligned", "baseline")
    means = difference.means[HEADLINE]
    assert means["aligned"].value == pytest.approx(0.10)
    assert means["supervised"].value == pytest.approx(-0.01)
    assert means["unseen"].value == pytest.approx(-0.03)
    # Aligned languages: (30 - 20) of a gap of 50. The supervised loss does not count as closing.
    assert difference.gap_closed["aligned"].value == pytest.approx(0.2)
    assert difference.gap_closed["unseen"].value == pytest.approx(-0.1)
    # Swahili: (20 - 10) of 70 - 10.
    assert difference.gap_closed_languages["sw"].value == pytest.approx(10 / 60)
    assert "en" not in difference.gap_closed_languages


def test_f1_is_pooled_in_a_language_not_averaged_over_items(tmp_path):
    # Items of 4/4 and 0/1 slots: pooled 2*4 / (5+5) = 0.8, a mean over items would say 0.5.
    write(tmp_path, "baseline", "baseline", {"en": counts([4, 0], [4, 1], [4, 1])}, seed=1)
    (model,), _ = compare_models(only_section(tmp_path))
    assert model.languages["en"][HEADLINE].value == pytest.approx(0.8)


def test_gap_closed_is_withheld_when_the_interval_of_the_gap_holds_zero(tmp_path):
    near = {"en": 50, "es": 50, "de": 49, "sw": 49, "fr": 10}
    write(tmp_path, "baseline", "baseline", shares(near), seed=1, doc_ids=apart(near))
    write(tmp_path, "aligned", "aligned", shares({**near, "de": 60}), seed=1, doc_ids=apart(near))
    _, (difference,) = compare_models(only_section(tmp_path))
    assert difference.baseline_gap["aligned"].value == pytest.approx(0.01)
    assert difference.baseline_gap["aligned"].holds_zero
    assert difference.gap_closed["aligned"] is None
    assert difference.gap_closed_languages["de"] is None
    assert difference.gap_closed["unseen"] is not None


def apart(scores):
    """Ids by which no two languages share a document, so that they are resampled apart."""
    return {code: range(1000 * i, 1000 * i + 100) for i, code in enumerate(scores)}


def test_a_gap_below_zero_is_not_closed(tmp_path):
    write(tmp_path, "baseline", "baseline", shares({"en": 20, "es": 20, "de": 80, "sw": 80}), seed=1)
    write(tmp_path, "aligned", "aligned", shares({"en": 20, "es": 20, "de": 90, "sw": 90}), seed=1)
    _, (difference,) = compare_models(only_section(tmp_path))
    assert not difference.baseline_gap["aligned"].holds_zero
    assert difference.gap_closed["aligned"] is None


def test_gap_closed_is_withheld_where_the_difference_is_undefined(tmp_path):
    """The only aligned language has no slot: the baseline scores 0 there, and the arm has no score."""
    slots = counts([1] * 100, [1] * 100, [1] * 100)
    false_alarms, silence = (counts([0] * 100, [pred] * 100, [0] * 100) for pred in (1, 0))
    write(tmp_path, "baseline", "baseline", {"en": slots, "de": false_alarms}, seed=1)
    write(tmp_path, "aligned", "aligned", {"en": slots, "de": silence}, seed=1)
    _, (difference,) = compare_models(only_section(tmp_path))
    assert difference.baseline_gap["aligned"].value == 1
    assert difference.gap_closed["aligned"] is None
    (part,) = build_board(tmp_path, tmp_path / "board")
    (line,) = describe_results(part)
    assert "aligned languages (1): **–**" in line
    assert "On aligned languages" not in line
    assert "Gap closed" not in line


def test_an_undefined_gap_is_named(tmp_path):
    slots, silence = counts([1] * 50, [1] * 50, [1] * 50), counts([0] * 50, [0] * 50, [0] * 50)
    for arm in ("baseline", "aligned"):
        write(tmp_path, arm, arm, {"en": slots, "de": silence}, seed=1)
    (part,) = build_board(tmp_path, tmp_path / "board")
    (line,) = describe_results(part)
    assert "the interval of the baseline's gap, – [–, –], is undefined." in line


def f1(table, chosen):
    """slot_f1 of the chosen items, in plain Python."""
    columns = [COLUMNS.index(column) for column in ("slot_tp", "slot_pred", "slot_gold")]
    tp, pred, gold = (sum(int(table[i][column]) for i in chosen) for column in columns)
    return 2 * tp / (pred + gold) if pred + gold else 0.0


def test_draws_are_the_scores_of_resampled_items(tmp_path, monkeypatch):
    """The matrix form gives what a loop over the drawn documents gives, draw by draw."""
    rng = np.random.default_rng(5)
    difficulty = rng.random(12)
    tables = {code: simulated(rng, 0.5, difficulty) for code in BASELINE}
    write(tmp_path, "baseline", "baseline", tables, seed=1)
    section = only_section(tmp_path)
    drawn = []
    weights = statistics.draw_weights

    def recorded(items, draws, seed):
        for chunk in weights(items, draws, seed):
            drawn.extend(chunk)
            yield chunk

    monkeypatch.setattr(statistics, "draw_weights", recorded)
    scores = bootstrap(section)["baseline.json"]
    assert len(drawn) == DRAWS
    headline = list(METRICS).index(HEADLINE)
    for draw in (0, 1, DRAWS // 2, DRAWS - 1):
        chosen = [i for i, times in enumerate(drawn[draw]) for _ in range(int(times))]
        assert len(chosen) == 12
        for position, code in enumerate(section.languages):
            assert scores.draws[draw, position, headline] == pytest.approx(f1(tables[code], chosen))


def test_paired_intervals_agree_with_a_bootstrap_in_plain_python(tmp_path):
    """Two arms, two seeds, two aligned languages: an independent loop with its own generator."""
    rng = np.random.default_rng(7)
    difficulty = rng.random(40)
    codes = ["en", "de", "sw"]
    quality = {"baseline": {"en": 0.8, "de": 0.4, "sw": 0.3}, "aligned": {"en": 0.8, "de": 0.5, "sw": 0.45}}
    tables = {}
    for arm in quality:
        for seed in (1, 2):
            tables[arm, seed] = {code: simulated(rng, quality[arm][code], difficulty) for code in codes}
            write(tmp_path, f"{arm}{seed}", arm, tables[arm, seed], seed=seed)
    _, (difference,) = compare_models(only_section(tmp_path))

    generator = random.Random(11)
    changes, closed = [], []
    for _ in range(1500):
        chosen = generator.choices(range(40), k=40)
        mean = {
            (arm, code): sum(f1(tables[arm, seed][code], chosen) for seed in (1, 2)) / 2
            for arm in quality
            for code in codes
        }
        change = sum(mean["aligned", code] - mean["baseline", code] for code in ("de", "sw")) / 2
        gap = mean["baseline", "en"] - (mean["baseline", "de"] + mean["baseline", "sw"]) / 2
        changes.append(change)
        closed.append(change / gap)
    for estimate, draws in (
        (difference.means[HEADLINE]["aligned"], sorted(changes)),
        (difference.gap_closed["aligned"], sorted(closed)),
    ):
        width = draws[-38] - draws[37]
        assert estimate.low == pytest.approx(draws[37], abs=0.1 * width)
        assert estimate.high == pytest.approx(draws[-38], abs=0.1 * width)
        assert estimate.stderr == pytest.approx(float(np.std(draws)), rel=0.1)


def test_equal_arms_are_covered(tmp_path, monkeypatch):
    """Arms of equal quality on parallel items: 95% intervals hold 0 in about 95 of 100 experiments."""
    monkeypatch.setattr(statistics, "DRAWS", 1000)
    rng = np.random.default_rng(3)
    held = 0
    for experiment in range(100):
        folder = tmp_path / str(experiment)
        difficulty = rng.random(60)
        for arm in ("baseline", "aligned"):
            tables = {code: simulated(rng, 0.5, difficulty) for code in ("en", "de", "sw")}
            write(folder, arm, arm, tables, seed=1)
        _, (difference,) = compare_models(only_section(folder))
        held += difference.means[HEADLINE]["aligned"].holds_zero
    assert 88 <= held <= 100  # binomial(100, 0.95) lies in 88..100 but once in 400 times


def test_parallel_items_are_resampled_together(tmp_path):
    """Languages right on the same items vary together: their mean is no more certain than one of them."""
    table = share(100, 50)
    write(tmp_path, "together", "baseline", dict.fromkeys(BASELINE, table), seed=1)
    together = compare_models(only_section(tmp_path))[0][0].means[HEADLINE]["all"].stderr
    assert together == pytest.approx(0.05, abs=0.005)


def test_pairing_narrows_the_interval(tmp_path):
    """An arm that errs on the same items as its baseline: the paired interval is near the few that differ."""
    right = np.array([1] * 50 + [0] * 50)
    better = right.copy()
    better[50:53] = 1
    tables = [{"en": share(100, 90), "de": counts(r, [1] * 100, [1] * 100)} for r in (right, better)]
    write(tmp_path, "baseline", "baseline", tables[0], seed=1)
    write(tmp_path, "aligned", "aligned", tables[1], seed=1)
    models, (difference,) = compare_models(only_section(tmp_path))
    change = difference.means[HEADLINE]["aligned"]
    assert change.value == pytest.approx(0.03)
    # Three items of a hundred: sd sqrt(0.03 * 0.97 / 100); unpaired it would be 0.07.
    assert change.stderr == pytest.approx(0.017, abs=0.002)
    assert by_label(models)["baseline"].languages["de"][HEADLINE].stderr == pytest.approx(0.05, abs=0.005)


def test_seeds_are_averaged_with_their_spread(tmp_path):
    for seed, right in ((1, 30), (2, 40), (3, 50)):
        write(tmp_path, f"b{seed}", "baseline", shares({**BASELINE, "de": right}), seed=seed)
        write(tmp_path, f"a{seed}", "aligned", shares({**BASELINE, "de": right + 2 * seed}), seed=seed)
    models, (difference,) = compare_models(only_section(tmp_path))
    model = by_label(models)["baseline"]
    assert model.seeds == [1, 2, 3]
    assert model.means[HEADLINE]["aligned"].value == pytest.approx((0.40 + 0.10) / 2)
    assert model.spread["aligned"] == pytest.approx([0.20, 0.30])
    assert difference.seeds == [1, 2, 3]
    assert difference.by_seed["aligned"] == pytest.approx([0.01, 0.02, 0.03])
    assert difference.means[HEADLINE]["aligned"].value == pytest.approx(0.02)


@pytest.mark.parametrize("lonely", ["baseline", "aligned"])
def test_only_shared_seeds_are_compared(tmp_path, lonely):
    write(tmp_path, "b1", "baseline", shares({**BASELINE, "de": 30}), seed=1)
    write(tmp_path, "a1", "aligned", shares({**BASELINE, "de": 34}), seed=1)
    write(tmp_path, "second", lonely, shares({**BASELINE, "de": 90}), seed=2)
    _, (difference,) = compare_models(only_section(tmp_path))
    assert difference.seeds == [1]
    assert difference.paired_seeds
    assert difference.means[HEADLINE]["aligned"].value == pytest.approx(0.02)


def test_arms_are_compared_with_their_own_recipes_baseline(tmp_path):
    for recipe, right in (("one", 30), ("two", 50)):
        write(tmp_path, f"{recipe}-b", "baseline", shares({**BASELINE, "de": right}), seed=1, recipe=recipe)
        write(tmp_path, f"{recipe}-a", "aligned", shares({**BASELINE, "de": 60}), seed=1, recipe=recipe)
    write(tmp_path, "orphan", "aligned", shares(BASELINE), seed=1, recipe="three")
    found = {d.model: d for d in compare_models(only_section(tmp_path))[1]}
    assert found["aligned (one)"].means[HEADLINE]["aligned"].value == pytest.approx(0.15)
    assert found["aligned (two)"].means[HEADLINE]["aligned"].value == pytest.approx(0.05)
    assert "aligned (three)" not in found


def test_another_engines_baseline_is_marked(tmp_path):
    write(tmp_path, "b", "baseline", shares(BASELINE), seed=1)
    write(tmp_path, "a", "aligned", shares(ALIGNED), seed=1, engine="vllm", dtype="bfloat16")
    _, (difference,) = compare_models(only_section(tmp_path))
    assert not difference.same_engine


def test_an_arm_is_not_held_against_a_baseline_of_another_training_dtype(tmp_path):
    write(tmp_path, "b1", "baseline", shares(BASELINE), seed=1, training_dtype="bfloat16")
    write(tmp_path, "b2", "baseline", shares({**BASELINE, "de": 30}), seed=2, training_dtype="float32")
    for seed, dtype in ((1, "float32"), (2, "float32")):
        own = shares({**BASELINE, "de": 60})
        write(tmp_path, f"a{seed}", "aligned", own, seed=seed, training_dtype=dtype)
    models, (difference,) = compare_models(only_section(tmp_path))
    assert (difference.baseline, difference.seeds) == ("baseline (trained in float32)", [2])
    assert difference.means[HEADLINE]["aligned"].value == pytest.approx(0.15)
    assert {model.label: model.training_dtype for model in models}["aligned"] == "float32"


def test_the_only_baseline_has_another_training_dtype(tmp_path):
    write(tmp_path, "b1", "baseline", shares(BASELINE), seed=1, training_dtype="bfloat16")
    write(tmp_path, "a1", "aligned", shares(ALIGNED), seed=1, training_dtype="float32")
    assert compare_models(only_section(tmp_path))[1] == []
    build_board(tmp_path, tmp_path / "board")
    page = (tmp_path / "board" / "README.md").read_text()
    assert "- Trained in bfloat16: baseline; float32: aligned" in page
    assert "No baseline of the same recipe and training dtype here: aligned." in page
    models = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["sections"][0]["models"]
    assert [model["training_dtype"] for model in models] == ["bfloat16", "float32"]


def test_retrieval_before_and_after(tmp_path):
    before, after = {"de": 0.2, "sw": 0.1, "fr": 0.3}, {"de": 0.6, "sw": 0.4, "fr": 0.5}
    write(tmp_path, "base", "base", shares(BASELINE), retrieval=before)
    write(tmp_path, "a1", "aligned", shares(ALIGNED), seed=1, retrieval=after)
    write(tmp_path, "a2", "aligned", shares(ALIGNED), seed=2, retrieval={**after, "de": 0.8})
    models = by_label(compare_models(only_section(tmp_path))[0])
    (aligned,), (base,) = models["aligned"].retrieval, models["base"].retrieval
    assert aligned.before == before
    assert aligned.after == pytest.approx({"de": 0.7, "sw": 0.4, "fr": 0.5})
    assert base.after == before


def test_retrieval_of_the_base_in_the_adapters_own_record_comes_first(tmp_path):
    before, after = {"de": 0.2, "sw": 0.1}, {"de": 0.6, "sw": 0.4}
    write(tmp_path, "base", "base", shares(BASELINE), retrieval={"de": 0.3, "sw": 0.3})
    write(tmp_path, "a1", "aligned", shares(ALIGNED), seed=1, retrieval=after, base_retrieval=before)
    (aligned,) = by_label(compare_models(only_section(tmp_path))[0])["aligned"].retrieval
    assert aligned.before == before


def test_layers_of_retrieval_are_apart(tmp_path):
    for seed, layer, accuracy in ((1, 3, 0.6), (2, 8, 0.9), (3, 8, 0.7)):
        write(
            tmp_path,
            f"a{seed}",
            "aligned",
            shares(ALIGNED),
            seed=seed,
            retrieval={"sw": accuracy},
            layer=layer,
        )
    (model,), _ = compare_models(only_section(tmp_path))
    assert [(one.layer, one.after) for one in model.retrieval] == [
        (3, {"sw": 0.6}),
        (8, {"sw": pytest.approx(0.8)}),
    ]
    assert retrieval_columns([model]) == {"retrieval, layer 3": 3, "retrieval, layer 8": 8}
    section = only_section(tmp_path)
    assert [retrieval_cell(section, model, layer) for layer in (3, 8, 9)] == ["60", "80", "–"]


def test_a_share_of_no_cases_is_undefined_and_left_out_of_means(tmp_path):
    """Slovak has no predicted value, so nothing is known of where its values stand."""
    none = counts([0] * 100, [0] * 100, [1] * 100)
    some = share(100, 50)
    some[:, COLUMNS.index("values_outside")] = some[:, COLUMNS.index("slot_pred")]
    tables = {"en": some, "de": some, "sw": none, "fr": some}
    write(tmp_path, "b", "baseline", tables, seed=1)
    (model,), _ = compare_models(only_section(tmp_path))
    metric = "values_not_in_utterance"
    assert np.isnan(model.languages["sw"][metric].value)
    assert model.languages["de"][metric].value == 1
    assert model.means[metric]["all"].value == 1
    assert format_with_error(model.languages["sw"][metric]) == "–"


def test_without_roles_there_is_no_gap(tmp_path):
    nobody = {"supervised": [], "aligned": [], "unseen": list(BASELINE)}
    write(tmp_path, "base", "base", shares(BASELINE), roles=nobody)
    (model,), differences = compare_models(only_section(tmp_path))
    assert model.gap == {}
    assert differences == []
