"""Numbers, intervals and tables as Markdown."""

import math
from collections.abc import Collection, Sequence

from midalign.leaderboard.statistics import Estimate

NONE = "–"
MINUS = "−"


def format_span(numbers: Collection[int]) -> str:
    """Return the least and the greatest number, or the one that all are."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def format_percent(share: float) -> str:
    """One decimal, no sign of minus zero."""
    return _signed(share, plus="")


def format_signed(share: float) -> str:
    """One decimal with its sign."""
    return _signed(share, plus="+")


def _signed(share: float, plus: str) -> str:
    if math.isnan(share):
        return NONE
    text = f"{abs(100 * share):.1f}"
    if text == "0.0":
        return text
    return f"{MINUS if share < 0 else plus}{text}"


def format_interval(estimate: Estimate) -> str:
    """`+3.1 [1.2, 5.0]`, a dash where there is no case."""
    if math.isnan(estimate.value):
        return NONE
    return (
        f"{format_signed(estimate.value)} [{format_percent(estimate.low)}, {format_percent(estimate.high)}]"
    )


def format_bounds(estimate: Estimate) -> str:
    """Return a share and its interval without signs, such as `46.3 [30.1, 60.2]`."""
    low, high = format_percent(estimate.low), format_percent(estimate.high)
    return f"{format_percent(estimate.value)} [{low}, {high}]"


def format_with_error(score: Estimate) -> str:
    """`82.1 ± 0.4`, a dash where there is no case."""
    return (
        NONE if math.isnan(score.value) else f"{format_percent(score.value)} ± {format_percent(score.stderr)}"
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """A table whose columns are right-aligned but for those in `left`."""
    marks = [":--" if i in left else "--:" for i in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
