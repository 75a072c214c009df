"""Scores under further wordings of the prompts, beside those of a section."""

from collections.abc import Sequence
from dataclasses import replace

from midalign.escaping import escape_markdown
from midalign.languages import ROLES
from midalign.leaderboard.compare import ModelFigures
from midalign.leaderboard.formatting import (
    MINUS,
    NONE,
    format_difference,
    format_percent,
    markdown_table,
)
from midalign.leaderboard.section_figures import SectionFigures, headline_title
from midalign.leaderboard.sections import BoardRow, BoardSection, decoding_settings, language_sets


def add_wordings(parts: Sequence[SectionFigures]) -> list[SectionFigures]:
    """Return the sections, each of the first wording with those that differ from it in the wording alone."""
    return [
        replace(part, reworded=[other for other in parts if _is_reworded(part.section, other.section)])
        if part.section.wording == 1
        else part
        for part in parts
    ]


def _is_reworded(section: BoardSection, other: BoardSection) -> bool:
    """Return whether two sections differ in the wording of their prompts, and in nothing else."""
    return other.wording != section.wording and _conditions(section) == _conditions(other)


def _conditions(section: BoardSection) -> tuple[object, ...]:
    run = section.first
    tasks = {code: run.task(code) for code in section.languages}
    return (
        section.group,
        run.record.base.digest,
        run.record.sample,
        {name: value for name, value in decoding_settings(run).items() if name != "wording"},
        language_sets(section),
        [(task.version, task.data_digest, run.ids[code]) for code, task in tasks.items()],
    )


def wording_tables(part: SectionFigures) -> list[str]:
    """Return the scores and the differences under each wording, or nothing without other wordings."""
    if not part.reworded:
        return []
    every = sorted([part, *part.reworded], key=lambda other: other.section.wording)
    numbers = [f"wording {other.section.wording}" for other in every]
    matches = [_matching_models(part, other) for other in every]
    sets = [name for name in ("all", *ROLES) if name in language_sets(part.section)]
    metric = part.section.scorer.HEADLINE
    scores = []
    for model in part.models:
        for name in sets:
            means = [
                match[model.label].means[metric][name].value for match in matches if model.label in match
            ]
            cells = [
                format_percent(match[model.label].means[metric][name].value) if model.label in match else NONE
                for match in matches
            ]
            scores.append(
                [escape_markdown(model.label), name, *cells, format_percent(max(means) - min(means))]
            )
    blocks = [
        f"### {headline_title(part)} under other wordings of the prompts".replace("slot", "Slot"),
        "Wording 1 is that of the tasks, with which adapters are trained. Spread: highest minus lowest.",
        markdown_table(["model", "languages", *numbers, "spread"], scores, left=(0, 1)),
    ]
    differences = [
        [
            escape_markdown(f"{change.model} {MINUS} {change.baseline}"),
            name,
            *(
                _difference(other, match.get(change.model), match.get(change.baseline), metric, name)
                for other, match in zip(every, matches, strict=True)
            ),
        ]
        for change in part.differences
        for name in sets
    ]
    if differences:
        blocks.append(markdown_table(["models", "languages", *numbers], differences, left=(0, 1)))
    return blocks


def _matching_models(part: SectionFigures, other: SectionFigures) -> dict[str, ModelFigures]:
    """Return label of a row -> the row of the other section that has the same adapters."""
    by_adapters = {_adapters(row): model for row, model in zip(other.section.rows, other.models, strict=True)}
    return {
        row.label: by_adapters[_adapters(row)] for row in part.section.rows if _adapters(row) in by_adapters
    }


def _adapters(row: BoardRow) -> tuple[object, ...]:
    adapters = [run.record.adapter for run in row.runs]
    return row.engine, tuple(adapter.digest if adapter else None for adapter in adapters)


def _difference(
    part: SectionFigures, model: ModelFigures | None, baseline: ModelFigures | None, metric: str, name: str
) -> str:
    """Return the difference of two models on a set of languages, or a dash without it."""
    for change in part.differences:
        if model and baseline and (change.model, change.baseline) == (model.label, baseline.label):
            return format_difference(change.means[metric][name])
    return NONE
