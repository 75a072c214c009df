"""The decision of `midalign leaderboard verify`: do differing answers show that a record was altered?

Honest reruns differ in some items, since engines order their sums differently: TOLERANCES says how many. A
record is accused if so many items differ that an honest rerun would have as many with a chance of at most
FALSE_ALARM. One stage of 100 items is not enough. If one differing item accused, so would 18% of the honest
fp32 runs that use the tolerance up. If it took two, 4% of the records with 5% altered items would pass. So
there are two stages:

1. N items. A record passes if no more differ than the tolerance expects (none of 100 in fp32). It is accused
   if the bound of N items is exceeded.
2. In doubt, FURTHER x N more items. The record is accused if the bound of all items is exceeded.

At N = 100 in fp32, a record with 5% altered items passes the first stage with a chance of 0.95^100 = 0.6%,
and the second one with less than 0.1%. scripts/checks/verify_power.py measures both kinds of error.
"""

from dataclasses import dataclass

import numpy as np

TOLERANCES = {"float32": 0.002, "bfloat16": 0.02}
"""Share of items in which honest reruns differ at most, by dtype. That of bf16 is not measured yet."""
FALSE_ALARM = 1e-5
FURTHER = 4
"""Items of the second stage per item of the first."""


@dataclass(frozen=True)
class RerunRule:
    """The bounds of one rerun."""

    tolerance: float
    """Share of items that may differ."""

    def passes_first(self, items: int, differing: int) -> bool:
        """Return whether the first stage suffices: no more items differ than expected."""
        return differing <= int(items * self.tolerance + 1e-9)

    def is_altered(self, items: int, differing: int) -> bool:
        """Return whether more items differ than an honest rerun explains."""
        return differing > self.bound(items)

    def bound(self, items: int) -> int:
        """Return the largest number of differing items that does not accuse.

        It is the smallest k with P(X > k) <= FALSE_ALARM, X binomial with the tolerance.
        """
        log_chances = _log_binomial(items, self.tolerance)
        tail = np.cumsum(np.exp(log_chances)[::-1])[::-1]  # P(X >= k)
        return int(np.argmax(np.append(tail[1:], 0.0) <= FALSE_ALARM))

    def detection(self, items: int, altered: float) -> float:
        """Return the chance that two stages, the first of `items`, accuse a record with altered items.

        `altered` is their share. They are drawn with replacement, which is slightly pessimistic.
        """
        first, second = _chances(items, altered), _chances(FURTHER * items, altered)
        accused = 0.0
        for differing, chance in enumerate(first):
            if self.is_altered(items, differing):
                accused += chance
            elif not self.passes_first(items, differing):
                accused += chance * second[max(self.bound((1 + FURTHER) * items) - differing + 1, 0) :].sum()
        return float(accused)


def _chances(items: int, share: float) -> np.ndarray:
    chances: np.ndarray = np.exp(_log_binomial(items, share))
    return chances


def _log_binomial(items: int, share: float) -> np.ndarray:
    """Return log P(X = k) for k from 0 to `items`."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, items + 1)))])
    k = np.arange(items + 1)
    chances: np.ndarray = (
        factorials[items]
        - factorials[k]
        - factorials[items - k]
        + k * np.log(share)
        + (items - k) * np.log1p(-share)
    )
    return chances
