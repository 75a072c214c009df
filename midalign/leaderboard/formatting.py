"""Numbers, intervals and tables as Markdown."""

import math
from collections.abc import Collection, Sequence
from typing import Any

from midalign.leaderboard.statistics import Estimate

NONE = "–"
MINUS = "−"
DIGITS = 6
"""Decimals of the figures in data files."""


def format_span(numbers: Collection[int]) -> str:
    """Return the lowest and the highest number, such as `150–300`, or a single number if all are equal."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def format_percent(share: float, places: int = 1) -> str:
    """Return a share in per cent with one decimal, or `places`. Zero has no sign."""
    return _signed(share, plus="", places=places)


def format_signed(share: float) -> str:
    """Return a share in per cent with one decimal and its sign."""
    return _signed(share, plus="+")


def _signed(share: float, plus: str, places: int = 1) -> str:
    if math.isnan(share):
        return NONE
    text = f"{abs(100 * share):.{places}f}"
    if float(text) == 0:
        return text
    return f"{MINUS if share < 0 else plus}{text}"


def format_interval(estimate: Estimate) -> str:
    """Return a difference and its interval, such as `+3.1 [1.2, 5.0]`, or a dash without a case."""
    if math.isnan(estimate.value):
        return NONE
    return (
        f"{format_signed(estimate.value)} [{format_percent(estimate.low)}, {format_percent(estimate.high)}]"
    )


def format_difference(estimate: Estimate) -> str:
    """Return a difference and its interval. If that holds 0, the smallest detectable difference follows.

    Such as `−0.4 [−2.1, 1.3] (SDD 2.4)`.
    """
    text = format_interval(estimate)
    if estimate.holds_zero and estimate.stderr > 0:
        return f"{text} (SDD {format_percent(estimate.detectable)})"
    return text


def format_bounds(estimate: Estimate) -> str:
    """Return a share and its interval without signs, such as `46.3 [30.1, 60.2]`."""
    low, high = format_percent(estimate.low), format_percent(estimate.high)
    return f"{format_percent(estimate.value)} [{low}, {high}]"


def format_with_error(score: Estimate) -> str:
    """Return a score and its standard error, such as `82.1 ± 0.4`, or a dash without a case."""
    return (
        NONE if math.isnan(score.value) else f"{format_percent(score.value)} ± {format_percent(score.stderr)}"
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Return a table. Columns are right-aligned except those in `left`."""
    marks = [":--" if i in left else "--:" for i in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def round_figures(value: Any) -> Any:
    """Return the same structure with floats rounded to DIGITS decimals and None for NaN."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return round(value, DIGITS) + 0.0  # + 0.0: no minus zero
    if isinstance(value, dict):
        return {key: round_figures(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [round_figures(member) for member in value]
    return value


def latex_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, *, mean_last: bool = False
) -> str:
    """Return a table for the package booktabs. Cells and caption are LaTeX already.

    `mean_last` sets the last row apart by a rule.
    """
    lines = [" & ".join(cells) + r" \\" for cells in rows]
    if mean_last:
        lines.insert(-1, r"\midrule")
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            " & ".join(header) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{caption}}}",
            r"\end{table}",
            "",
        ]
    )
