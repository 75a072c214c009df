"""Lay out samples in rows: one per row, or several that share a common prefix."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from midalign.rounding import round_up

SHARED = -1
"""Owner of the prefix that all samples of a row share."""

PADDING = -2
"""Owner of padding."""

WIDTH = 320
"""Target width of packed rows. Attention costs grow with the width, padding with the number of rows."""

MULTIPLE = 16
"""Widths of batches are multiples of this: on a CPU, each new shape adds a compiled kernel to memory."""


@dataclass(frozen=True)
class Rows:
    """Token ids laid out in rows. Tensors are (rows, width), int64.

    `owner` is the index of a token's sample in the order of the input, SHARED or PADDING. `position_ids`
    count from the sample's beginning, including shared tokens.
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
        shared: per group, the length of the common prefix, which a row holds once. Every sample is longer.
        pad: id of padding.
        width: target width of a row with several samples. None lays out one sample per row, shortest first.
    """
    # Lay out each group's rows: the common prefix once, then the rest of each sample.
    rows: list[tuple[list[int], list[int], list[int]]] = []
    first = 0
    for samples, prefix in zip(groups, shared if width else [0] * len(groups), strict=True):
        for members in _distribute([len(s) - prefix for s in samples], prefix, width):
            ids, positions, owner = list(samples[members[0]][:prefix]), [*range(prefix)], [SHARED] * prefix
            for member in members:
                rest = samples[member][prefix:]
                ids += rest
                positions += range(prefix, prefix + len(rest))
                owner += [first + member] * len(rest)
            rows.append((ids, positions, owner))
        first += len(samples)

    # Pad all rows to one width.
    columns = round_up(max(len(ids) for ids, _, _ in rows), MULTIPLE)
    fillers = (pad, 0, PADDING)
    filled = ([row[i] + [fillers[i]] * (columns - len(row[i])) for row in rows] for i in range(3))
    return Rows(*map(torch.tensor, filled))


def word_mask(rows: Rows, sink: int) -> Tensor:
    """Return the tokens that a sentence's mean is taken over: (rows, width) bool.

    Padding and a sentence's first `sink` tokens do not count, unless the sentence has no others.
    """
    tokens = rows.owner >= 0
    kept = tokens & (rows.position_ids >= sink)
    return kept | (tokens & ~torch.isin(rows.owner, rows.owner[kept]))


def _distribute(lengths: Sequence[int], prefix: int, width: int | None) -> list[list[int]]:
    """Choose which samples share a row: the longest first, each into the emptiest row."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    if width is None:
        return [[i] for i in reversed(order)]
    room = max(width - prefix, max(lengths, default=1))
    count = round_up(sum(lengths), room) // room
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
