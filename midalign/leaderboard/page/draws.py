"""Bootstrap draws of the headline, stored so that the page can compare any two rows of a section."""

import base64
from collections.abc import Mapping

import numpy as np

from midalign.leaderboard.sections import BoardSection
from midalign.leaderboard.statistics import Scores, mean_scores

STEPS = 65534
"""A share is stored in steps of 1 / STEPS. That is 0.0015 points, below the page's decimals."""
UNDEFINED = 65535
"""Stands for a draw without a case."""


def headline_draws(section: BoardSection, scores: Mapping[str, Scores]) -> dict[str, np.ndarray]:
    """Return the headline's draws by row, as (languages, draws) of uint16.

    A row's draws are the mean over its seeds. All rows share the draws' documents, so that the draws of a
    difference are the difference of two rows' draws.
    """
    stored = {}
    for row in section.rows:
        shares = mean_scores([scores[run.file] for run in row.runs]).draws[:, :, 0].T
        steps = np.round(np.clip(shares, 0, 1) * STEPS)
        stored[row.label] = np.where(np.isnan(steps), UNDEFINED, steps).astype("<u2")
    return stored


def encode_draws(draws: np.ndarray) -> list[str]:
    """Return the draws of each language as base64 of little-endian 16-bit integers."""
    return [base64.b64encode(row.astype("<u2").tobytes()).decode("ascii") for row in draws]
