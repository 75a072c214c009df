"""Samples laid out in rows: one a row, or many, and then what all of them begin with only once."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

SHARED = -1
"""Owner of a row's first tokens, which all its samples begin with."""

PADDING = -2
"""Owner of the tokens that belong to no sample."""

WIDTH = 320
"""Tokens that packed rows aim at: attention grows with the width of a row, empty room with their number."""

MULTIPLE = 16
"""Widths of batches are multiples of this: on a CPU each new shape is a compiled kernel kept in memory."""


@dataclass(frozen=True)
class Rows:
    """Token ids laid out in rows; tensors are (rows, width), int64.

    `owner` names the sample of a token by its place in the order that the samples came in, or is SHARED or
    PADDING. `position_ids` count from the sample's beginning, shared tokens included.
    """

    input_ids: Tensor
    position_ids: Tensor
    owner: Tensor


def lay_out(
    groups: Sequence[Sequence[Sequence[int]]], shared: Sequence[int], pad: int, width: int | None
) -> Rows:
    """Lay out groups of samples in rows. No row holds samples of two groups.

    Args:
        groups: token ids of every sample.
        shared: by group, how many tokens all its samples begin with that a row may hold once. Every sample is
            longer than that.
        width: tokens that a row of several samples aims at; None lays one sample a row, the shortest first.
    """
    rows: list[tuple[list[int], list[int], list[int]]] = []
    first = 0
    for samples, prefix in zip(groups, shared if width else [0] * len(groups), strict=True):
        for members in _distribute([len(s) - prefix for s in samples], prefix, width):
            ids, positions, owner = list(samples[members[0]][:prefix]), [*range(prefix)], [SHARED] * prefix
            for member in members:
                own = samples[member][prefix:]
                ids += own
                positions += range(prefix, prefix + len(own))
                owner += [first + member] * len(own)
            rows.append((ids, positions, owner))
        first += len(samples)
    columns = -(-max(len(ids) for ids, _, _ in rows) // MULTIPLE) * MULTIPLE
    fillers = (pad, 0, PADDING)
    filled = ([row[i] + [fillers[i]] * (columns - len(row[i])) for row in rows] for i in range(3))
    return Rows(*map(torch.tensor, filled))


def word_mask(rows: Rows, sink: int) -> Tensor:
    """Return which tokens a sentence's mean is taken over: (rows, width) bool.

    Neither padding nor a sentence's first `sink` tokens. A sentence without others keeps these.
    """
    own = rows.owner >= 0
    kept = own & (rows.position_ids >= sink)
    return kept | (own & ~torch.isin(rows.owner, rows.owner[kept]))


def _distribute(lengths: Sequence[int], prefix: int, width: int | None) -> list[list[int]]:
    """Choose which samples share a row: the longest first, each into the emptiest row."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if width is None:
        return [[i] for i in reversed(order)]
    count = -(-sum(lengths) // max(width - prefix, max(lengths, default=1)))
    rows, loads = [list[int]() for _ in range(count)], [0] * count
    for i in order:
        emptiest = loads.index(min(loads))
        rows[emptiest].append(i)
        loads[emptiest] += lengths[i]
    return rows


def common_prefix_length(prompts: Sequence[Sequence[int]]) -> int:
    """Return the length of the common prefix, leaving each prompt at least one token of its own."""
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in shared), min(map(len, prompts)) - 1)
