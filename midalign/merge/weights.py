"""How much of each adapter a merge takes, where in the network, and by which method."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from midalign.errors import AdapterError

MergeMethod = Literal["cat", "svd", "linear", "ties", "dare_linear", "dare_ties"]
SPARSE = ("ties", "dare_linear", "dare_ties")
CHOOSE_RANK = ("svd", *SPARSE)


@dataclass(frozen=True)
class MergeWeights:
    """Weight of each adapter, with other weights in some blocks."""

    everywhere: tuple[float, ...]
    in_blocks: tuple[tuple[range, tuple[float, ...]], ...] = ()
    """Other weights in some blocks, as in layer swapping (arXiv 2410.01335). The last match counts."""

    def of(self, module: str) -> tuple[float, ...]:
        """Return the weights of a module, by the number of its block."""
        block = block_number(module)
        chosen = self.everywhere
        for blocks, weights in self.in_blocks:
            if block in blocks:
                chosen = weights
        return chosen

    def __str__(self) -> str:
        parts = [_ratio(self.everywhere)]
        parts += [f"{_ratio(w)} in {b.start}-{b.stop - 1}" for b, w in self.in_blocks]
        return ", ".join(parts)


def block_number(module: str) -> int | None:
    """Return the number of a module's block, from 0. None outside blocks."""
    match = re.search(r"\.(\d+)\.", f".{module}.")
    return int(match[1]) if match else None


def _ratio(weights: Sequence[float]) -> str:
    return ":".join(f"{weight:g}" for weight in weights)


def describe_merge(
    weights: MergeWeights, method: MergeMethod, rank: int | None, density: float | None
) -> str:
    """Return weights and method in words, such as `1:0.5` (cat) or `ties 1:0.5 rank 8 density 0.2`."""
    how = str(weights) if method == "cat" else f"{method} {weights}"
    how += f" rank {rank}" if rank is not None else ""
    return f"{how} density {density:g}" if density is not None else how


def check_choices(
    weights: MergeWeights, method: MergeMethod, rank: int | None, density: float | None
) -> None:
    """Raise AdapterError for options that the method does not have, and for weights without an effect."""
    if rank is not None and method not in CHOOSE_RANK:
        raise AdapterError(f"{method} has a fixed rank. Only {', '.join(CHOOSE_RANK)} take a rank")
    if density is not None and method not in SPARSE:
        raise AdapterError(f"{method} keeps all entries. A density is for {', '.join(SPARSE)}")
    every = [
        weight for several in (weights.everywhere, *(w for _, w in weights.in_blocks)) for weight in several
    ]
    if not all(map(math.isfinite, every)):
        raise AdapterError(f"weights {weights}: expected finite numbers, such as 1,0.5")
    if not any(every):
        raise AdapterError(f"weights {weights} are all 0. Give at least one adapter another weight")


def path_part(text: str) -> str:
    """Return a text as part of a file's name."""
    return re.sub(r"[^\w.+-]+", "_", text)
