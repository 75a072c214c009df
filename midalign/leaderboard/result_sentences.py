"""The main results of a section in words."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from midalign.escaping import escape_markdown
from midalign.leaderboard.comet_comparison import comet_sets
from midalign.leaderboard.compare import Difference
from midalign.leaderboard.formatting import format_bounds, format_difference, format_percent, format_signed
from midalign.leaderboard.section_figures import SectionFigures, headline_title
from midalign.leaderboard.sections import language_sets
from midalign.leaderboard.statistics import LEVEL, Estimate


def describe_results(part: SectionFigures, escape: Callable[[str], str] = escape_markdown) -> list[str]:
    """Return the main results in words, one line per arm that has a baseline, with stars around differences.

    `escape` makes the names of arms safe for the output, which is Markdown unless it says otherwise.
    """
    lines = []
    for difference in part.differences:
        means = difference.means[part.section.scorer.HEADLINE]
        lines.append(
            f"{escape(f'{difference.model} minus {difference.baseline}')}, {headline_title(part)}: "
            f"{_by_role(means, language_sets(part.section), part.section.unit)}. "
            + " ".join(_remarks(difference, means, part.section.unit))
        )
    if part.comet:
        sets = comet_sets(part.section, part.comet)
        lines += [
            f"{escape(f'{change.model} minus {change.baseline}')}, COMET × 100: "
            f"{_by_role(change.means, sets, part.section.unit)}."
            for change in part.comet.differences
        ]
    return lines


def _by_role(means: Mapping[str, Estimate], sets: Mapping[str, Sequence[str]], unit: str) -> str:
    """Return the differences by role, such as `aligned languages (3): **+2.3 [1.4, 3.3]**; ...`."""
    return "; ".join(
        f"{role} {unit}s ({len(sets[role])}): "
        + (f"**{format_difference(means[role])}**" if role == "aligned" else format_difference(means[role]))
        for role in ("aligned", "supervised", "unseen")
        if role in means
    )


def count_differing(languages: Mapping[str, Mapping[str, Estimate]], holm: Mapping[str, float]) -> str:
    """Return how many languages differ after Holm's correction, such as `2 of 10 up, 1 down`."""
    changes = {code: next(iter(metrics.values())).value for code, metrics in languages.items()}
    shown = [changes[code] for code, p in holm.items() if p < 1 - LEVEL]
    up = sum(change > 0 for change in shown)
    return f"{up} of {len(changes)} up, {len(shown) - up} down"


def _remarks(difference: Difference, means: Mapping[str, Estimate], unit: str) -> Iterable[str]:
    """Yield the sentences that interpret a difference: sign, languages, gap closed, seeds and engines."""
    aligned = means.get("aligned")
    if aligned and not math.isnan(aligned.low):
        if aligned.holds_zero:
            yield f"On aligned {unit}s the interval holds 0: no difference is shown."
        else:
            yield f"On aligned {unit}s the arm is {'above' if aligned.value > 0 else 'below'} its baseline."
    differing = count_differing(difference.languages, difference.holm)
    yield f"{unit.capitalize()}s after Holm's correction: {differing}."
    if "aligned" in difference.gap_closed:
        gap, share = difference.baseline_gap["aligned"], difference.gap_closed["aligned"]
        bounds = format_bounds(gap)
        if share:
            value, low, high = map(format_percent, (share.value, share.low, share.high))
            yield f"Gap closed: {value}% [{low}, {high}] of the baseline's gap of {bounds}."
        elif not gap.low > 0:  # else the difference is undefined
            reason = "lies below 0"
            if math.isnan(gap.value):
                reason = "is undefined"
            elif gap.holds_zero:
                reason = "holds 0"
            yield f"Gap closed is not reported: the interval of the baseline's gap, {bounds}, {reason}."
    if not difference.paired_seeds:
        yield "The two share no seed: all seeds of both count."
    elif len(difference.seeds) > 1 and "aligned" in difference.by_seed:
        each = ", ".join(
            f"{seed}: {format_signed(value)}"
            for seed, value in zip(difference.seeds, difference.by_seed["aligned"], strict=True)
        )
        yield f"Aligned {unit}s by seed: {each}."
    if not difference.same_engine:
        yield "The two were evaluated by different engines or dtypes, which alone may cause a difference."
