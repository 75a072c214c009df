"""A paired comparison as a verdict in words, a table, Markdown, LaTeX and JSON."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from midalign.escaping import escape_markdown, latex_text
from midalign.leaderboard.formatting import (
    MINUS,
    NONE,
    format_interval,
    format_percent,
    latex_table,
    markdown_table,
    round_figures,
)
from midalign.leaderboard.paired_comparison import ALL, EFFECT_SIZE, PairedComparison, PairedRow
from midalign.leaderboard.section_figures import sample_name
from midalign.leaderboard.sections import language_title
from midalign.leaderboard.statistics import DRAWS, LEVEL
from midalign.metrics.paired_tests import TRIALS

DAGGERS = ((0.01, "‡"), (0.05, "†"))
"""Levels after Holm's correction and their marks."""
LONGEST_CAPTION = 4000
"""Characters of a caption or a verdict."""


def comparison_title(comparison: PairedComparison) -> str:
    """Return what is compared: both sides, metric, task, base and sample."""
    section = comparison.section
    return (
        f"A: {comparison.first}, B: {comparison.second}. {comparison.description.title} in %, "
        f"{section.group}, {section.first.record.base.name}, {sample_name(section)}"
    )


def comparison_header(comparison: PairedComparison) -> list[str]:
    """Return the titles of the columns."""
    header = [
        comparison.section.unit if comparison.by == "language" else comparison.by,
        "n",
        "A",
        "B",
        f"A {MINUS} B",
        "SDD",
        "p",
        "p Holm",
        "p swaps",
        "d_z",
    ]
    if _has_sacrebleu(comparison):
        header += ["sacreBLEU bs", "sacreBLEU ar"]
    return header


def comparison_cells(comparison: PairedComparison) -> list[list[str]]:
    """Return the rows of the table, the mean over all languages last."""
    return [_cells(comparison, row) for row in comparison.rows]


def _has_sacrebleu(comparison: PairedComparison) -> bool:
    return any(row.sacrebleu for row in comparison.rows)


def _cells(comparison: PairedComparison, row: PairedRow) -> list[str]:
    cells = [
        row_title(comparison, row),
        f"{row.documents:,}",
        format_percent(row.first),
        format_percent(row.second),
        f"{format_interval(row.difference)}{dagger(row)}",
        format_percent(row.difference.detectable) if row.difference.holds_zero else "",
        _p(row.p),
        "" if row.name == ALL else _p(row.p_holm),
        _p(row.p_randomization),
        NONE if math.isnan(row.effect_size) else f"{row.effect_size:+.2f}".replace("-", MINUS),
    ]
    if _has_sacrebleu(comparison):
        cells += [
            " ".join(_p(test.bootstrap) for test in row.sacrebleu),
            " ".join(_p(test.randomization) for test in row.sacrebleu),
        ]
    return cells


def row_title(comparison: PairedComparison, row: PairedRow) -> str:
    """Return the name of a row: a language, a role or class with its number of languages, or a mean."""
    if row.name == ALL:
        return f"mean of {len(row.languages)}" if len(row.languages) > 1 else "mean"
    if comparison.by == "language":
        return f"{language_title(row.name)} ({row.name})"
    return f"{row.name} ({len(row.languages)})"


def dagger(row: PairedRow) -> str:
    """Return the mark of a difference that is shown after Holm's correction. The mean is not corrected."""
    if row.name == ALL:
        return ""
    return next((mark for level, mark in DAGGERS if row.p_holm < level), "")


def _p(p: float) -> str:
    return NONE if math.isnan(p) else f"{p:.4f}"


def describe_comparison(comparison: PairedComparison) -> list[str]:
    """Return the verdict and its basis."""
    *rows, mean = comparison.rows
    first, second, unit = comparison.first, comparison.second, comparison.section.unit
    where = f"on the mean of {len(mean.languages)} {unit}s" if len(mean.languages) > 1 else mean.languages[0]
    figures = f"{format_interval(mean.difference)}, p = {_p(mean.p)}"
    if math.isnan(mean.difference.low):
        verdict = f"{comparison.description.title} is undefined {where}: nothing can be said."
    elif mean.difference.holds_zero:
        verdict = f"No difference is shown {where}: {figures}."
        if mean.difference.stderr > 0:
            verdict += (
                f" It may still exist: a true difference below {format_percent(mean.difference.detectable)} "
                f"points would often be missed."
            )
    else:
        better = comparison.description.higher_is_better
        word = "above" if mean.difference.value > 0 else "below"
        if better is not None:
            word = "better than" if (mean.difference.value > 0) == better else "worse than"
        verdict = f"{first} is {word} {second} {where}: {figures}."
    lines = [verdict]
    if len(rows) > 1:
        shown = [row for row in rows if row.p_holm < 1 - LEVEL]
        up = [row.name for row in shown if row.difference.value > 0]
        down = [row.name for row in shown if row.difference.value < 0]
        kind = {"language": f"{unit.capitalize()}s", "role": "Roles", "class": "Resource classes"}[
            comparison.by
        ]
        lines.append(
            f"{kind} after Holm's correction: {len(up)} of {len(rows)} up{_listed(up)}, "
            f"{len(down)} down{_listed(down)}."
        )
    lines += [_seeds(comparison), *_cautions(comparison)]
    return lines


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _seeds(comparison: PairedComparison) -> str:
    counts = [len(row.runs) for row in comparison.section.rows]
    if not comparison.seeds:
        return (
            f"The two share no seed: all runs of both count ({counts[0]} and {counts[1]}). "
            f"A side with one run does not cover the choice of its seed."
        )
    if len(comparison.seeds) == 1:
        return "One pair of runs: intervals and p do not cover the choice of the training seed."
    named = ", ".join(map(str, comparison.seeds))
    return f"Seeds in pairs: {named}. Intervals and p cover documents and seeds, p swaps covers documents."


def _cautions(comparison: PairedComparison) -> list[str]:
    """Return what else may cause a difference, and what was not compared."""
    lines = []
    if comparison.other_conditions:
        lines.append(
            f"The two also differ in {', '.join(comparison.other_conditions)}, "
            f"which alone may cause a difference."
        )
    if comparison.left_out:
        lines.append(
            f"Not compared, because the two do not share the items: {' '.join(comparison.left_out)}."
        )
    return lines


def comparison_notes(comparison: PairedComparison) -> str:
    """Return how to read the columns."""
    notes = (
        f"Brackets: {LEVEL:.0%} interval, {DRAWS:,} draws. SDD: smallest detectable difference, if none is "
        f"shown. p: bootstrap over documents and seeds. p Holm: adjusted for the number of rows († below "
        f"0.05, ‡ below 0.01). p swaps: approximate randomization, {TRIALS:,} swaps of documents. d_z: "
        f"{EFFECT_SIZE}, the difference over its standard deviation per document. n: different documents."
    )
    if _has_sacrebleu(comparison):
        notes += " sacreBLEU: p of --paired-bs and --paired-ar, one per pair of runs."
    return notes


def comparison_markdown(comparison: PairedComparison) -> str:
    """Return title, table, verdict and notes as Markdown."""
    table = markdown_table(comparison_header(comparison), comparison_cells(comparison), left=(0,))
    lines = [escape_markdown(line, LONGEST_CAPTION) for line in describe_comparison(comparison)]
    words = "\n".join(f"- {line}" for line in lines)
    title = escape_markdown(comparison_title(comparison))
    return f"### {title}\n\n{table}\n\n{words}\n\n{comparison_notes(comparison)}\n"


def comparison_latex(comparison: PairedComparison) -> str:
    """Return a table for the package booktabs, with verdict and notes as its caption."""
    caption = [
        comparison_title(comparison) + ".",
        *describe_comparison(comparison),
        comparison_notes(comparison),
    ]
    rows = [[*map(latex_text, cells)] for cells in comparison_cells(comparison)]
    header = [*map(latex_text, comparison_header(comparison))]
    return latex_table(header, rows, latex_text(" ".join(caption), LONGEST_CAPTION), mean_last=True)


def comparison_json(comparisons: Sequence[PairedComparison]) -> str:
    """Return comparisons as JSON. Scores and differences are shares between 0 and 1."""
    data = [round_figures(_comparison_data(comparison)) for comparison in comparisons]
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _comparison_data(comparison: PairedComparison) -> dict[str, Any]:
    section = comparison.section
    return {
        "first": comparison.first,
        "second": comparison.second,
        "records": [[run.file.partition("/")[2] for run in row.runs] for row in section.rows],
        "group": section.group,
        "base": section.first.record.base.name,
        "sample": section.first.record.sample.model_dump(),
        "metric": comparison.metric,
        "by": comparison.by,
        "seeds": comparison.seeds,
        "interval": {"level": LEVEL, "draws": DRAWS},
        "randomization": {"trials": TRIALS},
        "effect_size": EFFECT_SIZE,
        "rows": [{**asdict(row), "detectable": row.difference.detectable} for row in comparison.rows],
        "verdict": describe_comparison(comparison),
        "left_out": comparison.left_out,
        "other_conditions": comparison.other_conditions,
    }
