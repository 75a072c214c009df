"""Standard errors against formulas, another sampler, and the time they may take."""

import time

import numpy as np
import pytest

from midalign.metrics import bootstrap
from midalign.metrics.slot import COLUMNS, METRICS


def random_counts(items: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    gold = random.integers(0, 4, items)
    predicted = random.integers(0, 4, items)
    right = random.binomial(np.minimum(gold, predicted), 0.6)
    columns = {"n": np.ones(items, int), "slot_gold": gold, "slot_pred": predicted, "slot_tp": right}
    columns["exact"] = (right == gold) & (right == predicted)
    return np.stack([np.asarray(columns.get(c, np.zeros(items)), np.int64) for c in COLUMNS], -1)


def test_of_a_proportion_is_the_binomial_one() -> None:
    counts = random_counts(2000)
    p = counts[:, COLUMNS.index("exact")].mean()
    expected = np.sqrt(p * (1 - p) / len(counts))
    assert bootstrap.stderr(counts, METRICS["exact_match"], draws=4000) == pytest.approx(expected, rel=0.05)


def test_of_f1_is_that_of_a_bootstrap_item_by_item() -> None:
    counts = random_counts(300)
    random = np.random.default_rng(1)
    slow = [METRICS["slot_f1"](counts[random.integers(300, size=300)].sum(0)) for _ in range(4000)]
    expected = np.std(slow, ddof=1)
    assert bootstrap.stderr(counts, METRICS["slot_f1"], draws=4000) == pytest.approx(expected, rel=0.05)


def test_resampled_sets_are_as_large_as_the_set() -> None:
    counts = random_counts(777)
    drawn = bootstrap.resample(counts, 250, 0)
    assert drawn.shape == (250, len(COLUMNS))
    assert (drawn[:, COLUMNS.index("n")] == 777).all()
    assert len(np.unique(drawn, axis=0)) > 200


def test_is_reproducible_and_depends_on_the_counts() -> None:
    """The draws of a task's metrics are shared: that must not mix up two tasks."""
    one, other = random_counts(500), random_counts(500, seed=1)
    first = bootstrap.stderr(one, METRICS["slot_f1"])
    second = bootstrap.stderr(other, METRICS["slot_f1"])
    assert first == bootstrap.stderr(one, METRICS["slot_f1"])
    assert first != second == bootstrap.stderr(other, METRICS["slot_f1"])
    assert first != bootstrap.stderr(one, METRICS["slot_f1"], seed=1)
    assert first != bootstrap.stderr(one, METRICS["exact_match"])


def test_one_item_and_equal_items_have_no_error() -> None:
    assert bootstrap.stderr(random_counts(1), METRICS["slot_f1"]) < 1e-12
    assert bootstrap.stderr(np.tile(random_counts(9)[8], (50, 1)), METRICS["slot_f1"]) < 1e-12


def test_takes_well_under_a_second() -> None:
    counts = random_counts(3000)
    start = time.process_time()
    bootstrap.stderr(counts, METRICS["slot_f1"], seed=time.monotonic_ns() % 1000)
    assert time.process_time() - start < 1
