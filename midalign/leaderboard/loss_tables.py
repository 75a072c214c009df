"""The tables of a section that say where the headline's points are lost, by role and by language."""

from collections.abc import Sequence

from midalign.escaping import escape_markdown
from midalign.languages import ROLES
from midalign.leaderboard.compare import Difference, ModelFigures
from midalign.leaderboard.formatting import NONE, format_interval, format_percent, markdown_table
from midalign.leaderboard.section_figures import SectionFigures
from midalign.leaderboard.sections import language_sets, language_title

LOSS_TITLE = "Where slots are lost"
"""Title of the tables here and of a sweep's table."""


def loss_tables(part: SectionFigures, languages: Sequence[str]) -> list[str]:
    """Return heading and tables as Markdown blocks, nothing in families without such metrics.

    Args:
        part: the section.
        languages: its languages in the order of the rows.
    """
    metrics = [metric for metric in part.section.scorer.LOSS_METRICS if metric in part.section.metrics]
    if not metrics:
        return []
    titles = " / ".join(part.section.scorer.METRICS[metric].title for metric in metrics)
    return [
        f"### {LOSS_TITLE}",
        "In parentheses: difference from the baseline, with its interval.",
        _table_by_role(part, metrics),
        f"Each cell of the next table: {titles}, in per cent.",
        _table_by_language(part, metrics, languages),
    ]


def _table_by_role(part: SectionFigures, metrics: Sequence[str]) -> str:
    sets = language_sets(part.section)
    roles = [role for role in ROLES if role in sets]
    changes = {difference.model: difference for difference in part.differences}
    rows = [
        [
            part.section.scorer.METRICS[metric].title,
            escape_markdown(model.label),
            *(_mean_with_change(model, changes.get(model.label), metric, role) for role in roles),
        ]
        for metric in metrics
        for model in part.models
    ]
    header = ["measure", "model", *(f"{role} ({len(sets[role])})" for role in roles)]
    return markdown_table(header, rows, left=(0, 1))


def _mean_with_change(model: ModelFigures, change: Difference | None, metric: str, role: str) -> str:
    mean = format_percent(model.means[metric][role].value)
    return (
        mean if change is None or mean == NONE else f"{mean} ({format_interval(change.means[metric][role])})"
    )


def _table_by_language(part: SectionFigures, metrics: Sequence[str], languages: Sequence[str]) -> str:
    """Return a row per language in whole per cent: cells with decimals would be wider than a page."""
    rows = [
        [
            f"{language_title(code)} `{code}`",
            part.section.role(code),
            *(
                " / ".join(format_percent(model.languages[code][m].value, places=0) for m in metrics)
                for model in part.models
            ),
        ]
        for code in languages
    ]
    return markdown_table(
        ["language", "role", *(escape_markdown(model.label) for model in part.models)], rows, left=(0, 1)
    )
