"""The two-level bootstrap against enumeration, formulas and simulation; p-values and Holm's correction."""

from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from synthetic_records import counts, simulated, write

from midalign.leaderboard.compare import compare_models
from midalign.leaderboard.load import load_runs
from midalign.leaderboard.sections import group_runs
from midalign.leaderboard.statistics import (
    Estimate,
    TwoLevel,
    bootstrap,
    estimate,
    holm,
    mean_of_seeds,
    mean_over_languages,
    p_value,
    two_level,
)
from midalign.metrics.bootstrap import draw_weights
from midalign.metrics.slot import COLUMNS, HEADLINE


def of_seeds(table, draws=4000):
    """The mean of a (seeds, documents) table, with the library's draws of documents."""
    seeds, documents = table.shape
    weights = np.concatenate(list(draw_weights(documents, draws, seed=1))) / documents
    return two_level(table.mean(axis=1), table @ weights.T, np.full(seeds, 1 / seeds), np.zeros(seeds, int))


def test_draws_have_the_distribution_of_all_resamples(tmp_path):
    """Five documents have 3,125 resamples, which are enumerated."""
    gold = [3, 1, 2, 4, 1]
    tables = [
        {"en": counts([1, 0, 2, 3, 0], [2, 1, 2, 4, 2], gold)},
        {"en": counts([2, 1, 1, 4, 0], [3, 2, 2, 4, 1], gold)},
    ]
    for arm, table in zip(("baseline", "aligned"), tables, strict=True):
        write(tmp_path, arm, arm, table, seed=1)
    _, (difference,) = compare_models(group_runs(load_runs(tmp_path))[0])
    tp, pred, gold = (COLUMNS.index(name) for name in ("slot_tp", "slot_pred", "slot_gold"))

    def f1(table, chosen):
        pooled = table[list(chosen)].sum(axis=0)
        return 2 * pooled[tp] / (pooled[pred] + pooled[gold])

    baseline, aligned = (table["en"] for table in tables)
    everything = [f1(aligned, chosen) - f1(baseline, chosen) for chosen in product(range(5), repeat=5)]
    shown = difference.languages["en"][HEADLINE]
    assert shown.stderr == pytest.approx(np.std(everything), rel=0.03)
    low, high = np.quantile(everything, [0.025, 0.975])
    assert shown.low == pytest.approx(low, abs=0.03 * (high - low))
    assert shown.high == pytest.approx(high, abs=0.03 * (high - low))
    below = np.mean(np.array(everything) <= 0)
    assert difference.p_values["en"] == pytest.approx(
        2 * min(below, np.mean(np.array(everything) >= 0)), abs=0.03
    )


def test_variance_is_that_of_random_seeds_and_random_documents():
    """Mean squares of the two-way layout: (seeds + documents - interaction) / cells, Satterthwaite's t."""
    rng = np.random.default_rng(1)
    table = 0.3 + rng.normal(0, 0.3, (4, 1)) + rng.normal(0, 1, (1, 200)) + rng.normal(0, 2, (4, 200))
    figure = of_seeds(table)
    seeds, documents = table.shape
    by_seed, by_document = table.mean(axis=1), table.mean(axis=0)
    residual = table - by_seed[:, None] - by_document + table.mean()
    squares = {
        "seeds": documents * by_seed.var(ddof=1),
        "documents": seeds * by_document.var(ddof=1),
        "interaction": (residual**2).sum() / (seeds - 1) / (documents - 1),
    }
    assert squares["seeds"] > squares["interaction"]
    variance = (squares["seeds"] + squares["documents"] - squares["interaction"]) / table.size
    assert figure.stderr == pytest.approx(np.sqrt(variance), rel=0.03)
    freedom = variance**2 / ((squares["seeds"] / table.size) ** 2 / (seeds - 1))
    assert figure.freedom == pytest.approx(freedom, rel=0.1)
    half = student.ppf(0.975, figure.freedom) * figure.stderr
    assert estimate(figure).low == pytest.approx(table.mean() - half, abs=0.1 * half)
    assert estimate(figure).high == pytest.approx(table.mean() + half, abs=0.1 * half)
    assert p_value(figure) == pytest.approx(
        2 * student.sf(abs(figure.value) / figure.stderr, figure.freedom), abs=0.02
    )


def test_equal_seeds_add_nothing():
    table = np.tile(np.random.default_rng(2).normal(0.2, 1, (1, 200)), (3, 1))
    figure, alone = of_seeds(table), of_seeds(table[:1])
    assert astuple(estimate(figure))[:4] == pytest.approx(astuple(estimate(alone))[:4])
    assert alone.freedom == figure.freedom == np.inf
    low, high = np.quantile(alone.draws, [0.025, 0.975])
    assert (estimate(alone).low, estimate(alone).high) == pytest.approx((low, high))


def test_freedom_is_at_least_that_of_the_seeds():
    """The variance subtracts a mean square, so Satterthwaite's formula alone would fall to 0.04 here."""
    opposed = np.array([[1.0, -1.0]] * 50 + [[-1.0, 1.0]] * 50).T * 0.5
    figure = of_seeds(opposed + np.array([[0.1], [-0.1]]))
    assert figure.stderr > figure.document_stderr
    assert figure.freedom == 1
    assert estimate(figure).high < 10


def test_rounding_of_float32_draws_is_no_spread(tmp_path):
    """All documents of a seed score alike, so its draws are its float32 value, and only seeds differ."""
    for seed, (tp, gold) in enumerate([(1, 2), (2, 5), (1, 6)]):
        tables = {"en": counts([tp] * 50, [tp] * 50, [gold] * 50)}
        write(tmp_path, f"baseline{seed}", "baseline", tables, seed=seed)
    (model,), _ = compare_models(group_runs(load_runs(tmp_path))[0])
    shown, f1 = model.languages["en"][HEADLINE], [2 / 3, 4 / 7, 2 / 7]
    assert shown.stderr == pytest.approx(np.std(f1, ddof=1) / np.sqrt(3))
    half = student.ppf(0.975, 2) * shown.stderr
    assert (shown.low, shown.high) == pytest.approx((np.mean(f1) - half, np.mean(f1) + half))


def test_intervals_of_three_seeds_are_covered_where_seeds_differ():
    rng, held, alone = np.random.default_rng(6), 0, 0
    for _ in range(300):
        table = rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 1, (3, 100))
        figure = of_seeds(table, draws=300)
        held += estimate(figure).holds_zero
        alone += np.quantile(figure.draws, 0.025) <= 0 <= np.quantile(figure.draws, 0.975)
    assert alone < 220  # documents alone hold 0 in two of three experiments
    assert 267 <= held <= 297  # binomial(300, 0.945) but once in 400 times


def test_two_groups_add_their_seeds():
    """Without shared seeds the variances of both sides add up, each over its number of runs."""
    rng = np.random.default_rng(3)
    values = np.array([0.5, 0.7, 0.1, 0.2, 0.6])
    noise = rng.normal(0, 1e-4, (5, 2000))
    figure = two_level(
        values,
        values[:, None] + noise,
        np.array([0.5, 0.5, -1 / 3, -1 / 3, -1 / 3]),
        np.array([0, 0, 1, 1, 1]),
    )
    assert figure.value == pytest.approx(0.6 - 0.3)
    parts = np.array([values[:2].var(ddof=1) / 2, values[2:].var(ddof=1) / 3])
    assert figure.stderr == pytest.approx(np.sqrt(parts.sum()), rel=1e-3)
    assert figure.freedom == pytest.approx(
        parts.sum() ** 2 / (parts[0] ** 2 / 1 + parts[1] ** 2 / 2), rel=1e-2
    )


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(-3, 3),
    stderr=st.floats(1, 3),
    freedom=st.sampled_from([2.0, 4.5, np.inf]),
    seed=st.integers(0, 99),
)
def test_interval_and_p_agree_and_mirror(value, stderr, freedom, seed):
    draws = value + np.random.default_rng(seed).normal(size=999)
    figure = TwoLevel(value, draws, 1.0, stderr, freedom)
    mirrored = TwoLevel(-value, -draws, 1.0, stderr, freedom)
    shown, p = estimate(figure), p_value(figure)
    assert 0 < p <= 1
    if abs(p - 0.05) > 0.004:  # one draw more or less
        assert shown.holds_zero == (p > 0.05)
    assert (-estimate(mirrored).high, -estimate(mirrored).low) == pytest.approx((shown.low, shown.high))
    if value != 0:
        assert p_value(mirrored) == p


def test_no_difference_has_p_1():
    assert p_value(TwoLevel(0.0, np.zeros(100), 0.0, 0.0, np.inf)) == 1
    assert np.isnan(p_value(TwoLevel(np.nan, np.empty(0), np.nan, np.nan, np.inf)))


def test_smallest_detectable_difference_has_a_power_of_four_in_five():
    assert Estimate(0, -1, 1, 0.5).detectable == pytest.approx(2.8 * 0.5, rel=1e-3)
    shown = norm.sf(1.96 - Estimate(0, -1, 1, 1.0).detectable)
    assert shown == pytest.approx(0.8, abs=1e-3)
    few = Estimate(0, -1, 1, 0.5, freedom=2.0)
    assert few.detectable == pytest.approx(0.5 * (student.ppf(0.975, 2) + student.ppf(0.8, 2)))


def test_holm_by_hand():
    # 4 x 0.01, 3 x 0.02, 2 x 0.03 raised to the one before, 1 x 0.5.
    adjusted = holm({"a": 0.03, "b": 0.01, "c": 0.5, "d": 0.02, "e": np.nan})
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.5, "d": 0.06, "e": np.nan}, nan_ok=True)
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_as_the_step_down_procedure(p_values):
    adjusted = holm({str(i): p for i, p in enumerate(p_values)})
    rejected, remaining = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
    while remaining and p_values[remaining[0]] * len(remaining) < 0.05:
        rejected.add(str(remaining.pop(0)))
    assert {name for name, p in adjusted.items() if p < 0.05} == rejected


def test_the_mean_of_one_language_is_its_row(tmp_path):
    rng = np.random.default_rng(8)
    difficulty = rng.random(50)
    for arm, quality in (("baseline", 0.5), ("aligned", 0.6)):
        for seed in (1, 2, 3):
            tables = {code: simulated(rng, quality, difficulty) for code in ("en", "de", "sw", "fr")}
            write(tmp_path, f"{arm}{seed}", arm, tables, seed=seed)
    (section,) = group_runs(load_runs(tmp_path))
    models, (difference,) = compare_models(section)
    for figures in (*models, difference):
        for metric, means in figures.means.items():
            assert means["unseen"] == figures.languages["fr"][metric]
            assert means["supervised"] == figures.languages["en"][metric]
    scores = mean_of_seeds(list(bootstrap(section).values())[:3])
    several = mean_over_languages(scores, [0, 2], 0)
    alone = [mean_over_languages(scores, [i], 0) for i in (0, 2)]
    assert several.draws == pytest.approx((alone[0].draws + alone[1].draws) / 2, abs=1e-6)
