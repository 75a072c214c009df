"""Paired tests against sacreBLEU itself and against full enumeration."""

import random
from itertools import product

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from midalign.metrics.identify import NOTHING
from midalign.metrics.paired_tests import (
    TRIALS,
    randomization_p_value,
    sacrebleu_bootstrap,
    sacrebleu_randomization,
    swap_masks,
    swapped_differences,
)
from midalign.metrics.rates import quotient
from midalign.metrics.translation import METRICS, count_translation

WORDS = "the a red house stands on green hills near rivers where old men sing songs about ships"


def translations(seed, segments):
    """References and the outputs of two systems that differ in how many words they miss."""
    chance = random.Random(seed)
    references = [" ".join(chance.choices(WORDS.split(), k=chance.randint(3, 12))) for _ in range(segments)]

    def translate(missed):
        return [
            " ".join(
                chance.choice(WORDS.split()) if chance.random() < missed else word for word in line.split()
            )
            for line in references
        ]

    return references, translate(0.36), translate(0.32)


def counted(outputs, references):
    rows = [count_translation("", r, o, "13a", NOTHING) for o, r in zip(outputs, references, strict=True)]
    return np.array(rows, np.int64)


@pytest.mark.parametrize(("seed", "segments"), [(1, 40), (2, 57)])
def test_p_values_and_scores_are_those_of_sacrebleu(seed, segments):
    references, baseline, system = translations(seed, segments)
    tables = [counted(outputs, references) for outputs in (baseline, system)]
    for kind, ours in (("bs", sacrebleu_bootstrap), ("ar", sacrebleu_randomization)):
        metrics = {"bleu": BLEU(tokenize="13a"), "chrf": CHRF(word_order=2)}
        _, results = PairedTest(
            [("baseline", baseline), ("system", system)], metrics, [references], test_type=kind
        )()
        for name, (of_baseline, of_system) in zip(metrics, list(results.values())[1:], strict=True):
            assert ours(*tables, METRICS[name]) == pytest.approx(of_system.p_value, abs=1e-9)
            for table, theirs in zip(tables, (of_baseline, of_system), strict=True):
                assert float(METRICS[name](table.sum(axis=0))) == pytest.approx(theirs.score, abs=1e-9)


def f1(pooled):
    return quotient(2 * pooled[..., 0], pooled[..., 1] + pooled[..., 2])


def slots(seed, items):
    rng = np.random.default_rng(seed)
    gold = rng.integers(1, 4, items)
    tables = []
    for quality in (0.4, 0.6):
        right = rng.binomial(gold, quality)
        tables.append(np.stack([right, right + rng.integers(0, 2, items), gold], axis=1))
    return tables


def test_randomization_converges_to_full_enumeration():
    first, second = slots(1, 10)
    observed = float(f1(first.sum(axis=0)) - f1(second.sum(axis=0)))
    everything = []
    for kept in product((True, False), repeat=10):
        stays = np.array(kept)[:, None]
        a, b = np.where(stays, first, second), np.where(stays, second, first)
        everything.append(float(f1(a.sum(axis=0)) - f1(b.sum(axis=0))))
    exact = np.mean(np.abs(everything) >= abs(observed) - 1e-12)
    swapped = swapped_differences(first, second, f1, swap_masks(10))
    assert len(swapped) == TRIALS
    assert randomization_p_value(swapped, observed) == pytest.approx(exact, abs=4 * np.sqrt(exact / TRIALS))
    # All 1,024 swaps give exactly the enumeration.
    masks = np.array(list(product((True, False), repeat=10)))
    assert swapped_differences(first, second, f1, masks) == pytest.approx(everything)


def test_equal_systems_have_p_1_and_sacrebleus_smallest():
    first, _ = slots(2, 30)
    swapped = swapped_differences(first, first, f1, swap_masks(30))
    assert randomization_p_value(swapped, 0.0) == 1
    assert sacrebleu_randomization(first, first, f1) == 1 / (TRIALS + 1)


def test_swapping_the_systems_negates_and_keeps_p():
    first, second = slots(3, 40)
    masks = swap_masks(40)
    there, back = (swapped_differences(*pair, f1, masks) for pair in ((first, second), (second, first)))
    assert there == pytest.approx(-back)
    assert randomization_p_value(there, 0.05) == randomization_p_value(back, -0.05)
    assert sacrebleu_randomization(first, second, f1) == sacrebleu_randomization(second, first, f1)
    assert sacrebleu_bootstrap(first, second, f1) == sacrebleu_bootstrap(second, first, f1)


def test_streams_are_independent_and_the_first_is_sacrebleus():
    expected = np.random.default_rng(12345).integers(2, size=(TRIALS, 25), dtype=bool)
    assert (swap_masks(25) == expected).all()
    agreement = (swap_masks(25) == swap_masks(25, stream=1)).mean()
    assert agreement == pytest.approx(0.5, abs=0.01)
