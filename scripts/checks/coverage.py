"""Measure how often 95% intervals of a difference between two arms hold the true difference.

    python scripts/checks/coverage.py                      # the table of docs/results/intervals.md, 6 minutes
    python scripts/checks/coverage.py --experiments 200    # a first look

Both arms have the same distribution, so the true difference is 0. An experiment draws documents, training
seeds and the slot counts of every (arm, seed, document), and compares the arms on slot F1. The
intervals are those of resampling documents alone, of resampling seeds in pairs and then documents (the plain
two-level percentile bootstrap), and midalign's.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from midalign.leaderboard.statistics import LEVEL, estimate, two_level
from midalign.metrics.bootstrap import draw_weights

DOCUMENTS = 300
DRAWS = 1000
SEEDS = (2, 3, 5, 6)
SPREADS = {
    "seeds alike": (0.0, 0.0),
    "seeds err on different documents": (0.0, 1.5),
    "seeds differ a little": (0.1, 0.75),
    "seeds differ as much as documents": (0.25, 0.75),
    "seeds differ far more": (0.75, 0.0),
}
"""Name -> standard deviations of the logit of a slot's chance: between seeds, and between seeds within a
document."""
DOCUMENT_SPREAD = 1.0
"""Standard deviation of the logit between documents."""
ARM_SPREAD = 0.5
"""Standard deviation of the logit between the arms within a document, the same for all seeds."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--experiments", type=int, default=4000)
    experiments = parser.parse_args().experiments
    weights = np.concatenate(list(draw_weights(DOCUMENTS, DRAWS, seed=0)))
    print("| true spread | seeds | documents alone | plain two-level | midalign |")
    print("| :-- | --: | --: | --: | --: |")
    for name, (between, within) in SPREADS.items():
        for seeds in SEEDS:
            rng = np.random.default_rng(seeds)
            held = np.mean(
                [
                    [low <= 0 <= high for low, high in intervals(rng, seeds, between, within, weights)]
                    for _ in range(experiments)
                ],
                axis=0,
            )
            print(f"| {name} | {seeds} | " + " | ".join(f"{share:.1%}" for share in held) + " |", flush=True)


def intervals(
    rng: np.random.Generator, seeds: int, between: float, within: float, weights: np.ndarray
) -> Iterator[tuple[float, float]]:
    """Yield the intervals of one experiment, in the order of the table's columns."""
    counts = draw_counts(rng, seeds, between, within)
    points = f1(counts.sum(axis=2))
    draws = f1(np.einsum("wd,asdc->aswc", weights, counts, optimize=True))
    values, drawn = points[0] - points[1], draws[0] - draws[1]
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    yield tuple(np.quantile(drawn.mean(axis=0), tails))
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS).T / seeds
    yield tuple(np.quantile((chosen * drawn).sum(axis=0), tails))
    ours = estimate(two_level(values, drawn, np.full(seeds, 1 / seeds), np.zeros(seeds, int)))
    yield ours.low, ours.high


def draw_counts(rng: np.random.Generator, seeds: int, between: float, within: float) -> np.ndarray:
    """Return (arms, seeds, documents, 3) slots: right, predicted, gold."""
    gold = rng.integers(0, 4, DOCUMENTS)
    logit = (
        rng.normal(0, DOCUMENT_SPREAD, DOCUMENTS)
        + rng.normal(0, ARM_SPREAD, (2, 1, DOCUMENTS))
        + rng.normal(0, between, (2, seeds, 1))
        + rng.normal(0, within, (2, seeds, DOCUMENTS))
    )
    right = rng.binomial(gold, 1 / (1 + np.exp(-logit)))
    predicted = right + rng.binomial(gold - right, 0.7)
    return np.stack([right, predicted, np.broadcast_to(gold, right.shape)], axis=-1).astype(np.float64)


def f1(pooled: np.ndarray) -> np.ndarray:
    """Return F1 of pooled slots (..., 3)."""
    return 2 * pooled[..., 0] / (pooled[..., 1] + pooled[..., 2])


if __name__ == "__main__":
    main()
