"""Overviews of models of different bases as Markdown."""

from midalign.escaping import escape_markdown
from midalign.languages import ROLES
from midalign.leaderboard.across_bases import BasesOverview, RankedModel
from midalign.leaderboard.formatting import NONE, format_percent, markdown_table
from midalign.leaderboard.section_figures import items_span, sample_name
from midalign.leaderboard.sections import language_title, resource_of


def overview_title(overview: BasesOverview) -> str:
    """Return the title of an overview's section."""
    return f"{overview.section.group} across bases, {sample_name(overview.section)}"


def render_overview(overview: BasesOverview) -> str:
    """Return an overview's section: what differs, and scores with ranks per set and per language."""
    section = overview.section
    metric = next(iter(section.metrics.values()))
    facts = [
        f"- Items per {section.unit}: {items_span(section)}, the same for all models",
        f"- {section.unit.capitalize()}s that all models have ({len(section.languages)}): "
        f"{' '.join(section.languages)}",
    ]
    if overview.missing:
        facts.append(f"- Not shared by all models, so not counted: {' '.join(overview.missing)}")
    facts.append(
        f"- **Not the same for all models: {', '.join(overview.differing)}.** Any of these may cause a "
        f"difference"
    )
    facts += [
        f"- {role.capitalize()} in all trained models: {' '.join(overview.sets[role])}"
        for role in ROLES
        if role in overview.sets
    ]
    ranked = any(model.ranks for model in overview.models)
    legend = f"Each cell: {metric.title}"
    if ranked:
        legend += (
            ", and in parentheses the highest and the lowest rank that the data allow. A model's highest "
            "rank is one plus the number of models that are shown to be better. Its lowest rank leaves those "
            "below that are shown to be worse. Shown means that the 95% interval of the difference, over "
            "documents and seeds, does not contain 0. It is not adjusted for the number of pairs"
        )
    sets = {name: f"{name} ({len(codes)})" for name, codes in overview.sets.items()}
    by_set = [
        [
            escape_markdown(model.label),
            " ".join(str(seed) for seed in model.seeds if seed is not None),
            *(_cell(model, name) for name in sets),
            escape_markdown(f"{model.engine} {model.dtype}".strip()),
        ]
        for model in overview.models
    ]
    by_language = [
        [
            f"{language_title(code)} `{code}`",
            resource_of(code),
            *(_cell(model, code) for model in overview.models),
        ]
        for code in section.languages
    ]
    labels = [escape_markdown(model.label) for model in overview.models]
    blocks = [
        f"## {escape_markdown(overview_title(overview))}",
        "\n".join(facts),
        f"{legend}.",
        markdown_table(["model", "seeds", *sets.values(), "engine"], by_set, left=(0, 2 + len(sets))),
        markdown_table([section.unit, "class", *labels], by_language, left=(0, 1)),
    ]
    return "\n\n".join(blocks) + "\n"


def _cell(model: RankedModel, name: str) -> str:
    """Return a score with its ranks, such as `31.2 (1–3)`."""
    score = format_percent(model.scores[name].value)
    if score == NONE or name not in model.ranks:
        return score
    best, worst = model.ranks[name]
    return f"{score} ({best})" if best == worst else f"{score} ({best}–{worst})"
