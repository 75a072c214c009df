"""The board as Markdown: per section its facts, rows, results in words, and languages."""

import re
from collections.abc import Sequence
from pathlib import Path

from midalign.escaping import code_span, escape_markdown
from midalign.languages import ROLES
from midalign.leaderboard.across_bases import BasesOverview
from midalign.leaderboard.bases_tables import overview_title, render_overview
from midalign.leaderboard.comet_comparison import CometComparison, comet_sets
from midalign.leaderboard.compare import ModelFigures
from midalign.leaderboard.formatting import (
    MINUS,
    NONE,
    format_bounds,
    format_difference,
    format_percent,
    format_with_error,
    markdown_table,
)
from midalign.leaderboard.loss_tables import loss_tables
from midalign.leaderboard.result_sentences import describe_results
from midalign.leaderboard.section_facts import section_facts
from midalign.leaderboard.section_figures import (
    SectionFigures,
    headline_title,
    items_name,
    retrieval_layers,
    section_title,
)
from midalign.leaderboard.sections import BoardSection, language_sets, language_title, resource_of
from midalign.leaderboard.statistics import DRAWS
from midalign.leaderboard.trust import MARKS, Trust
from midalign.leaderboard.wording_tables import wording_tables

MARK = "<!-- written by midalign leaderboard build -->"
_PREFACE = f"""\
Scores are in per cent. A language's score is pooled over its items (micro). A mean is over languages (macro).
A dash means undefined, such as the share of correct values if a model predicted no value. Means skip
undefined scores.
Intervals in brackets are 95% bootstrap intervals over documents ({DRAWS:,} draws of document ids, the same
for both models of a difference and for all languages). If a row has several seeds, its figures are their
mean, with the lowest and highest seed in parentheses, and its intervals and standard errors cover the choice
of the training seed too. Seeds are paired in differences. Intervals of one seed do not cover its choice.

- **supervised, aligned, unseen**: languages with training labels, with parallel sentences only, with neither.
- **high, mid, low**: resource class of a language (Joshi et al. 2020: 4-5, 3, 0-2), whatever its role.
- **SDD**: smallest detectable difference, 2.8 standard errors, or more with few seeds. It stands beside each
  difference that is not shown (its interval holds 0): a true difference of this size would be shown four
  times out of five.
- **gap**: transfer gap, mean over supervised languages minus the language's own score, same model.
  Translation has none, because scores of two target languages cannot be compared.
- **gap closed**: (model − baseline) / baseline's gap, on the aligned languages. Reported only if the
  interval of the baseline's gap lies above 0.
- **retrieval**: share of test sentences whose nearest candidate is their English translation, by states after
  the named layer, before training (base) → after, mean over the aligned languages.
- **missed, false alarms, span errors**: share of the items with slots that were answered with none, of the
  items without slots that were answered with some, and of the pairs with a right label whose value is wrong.
  Lower is better.
- **loose span F1**: spans of the right label that overlap count as found, as xSID defines it. Most records of
  earlier versions lack it.
- **cut off**: share of outputs that reached the token limit of an answer, over all languages and seeds.
"""

_TRUST: dict[Trust, str] = {
    "verified": "Verified: random items were answered again with the named model, and the counts agree.",
    "self-reported": "Self-reported: outputs made elsewhere, or an adapter whose training is only declared.",
}


def render_page(parts: Sequence[SectionFigures], overviews: Sequence[BasesOverview] = ()) -> str:
    """Return the whole README.md."""
    contents = _contents(parts, overviews)
    sections = [*map(_section, parts), *map(render_overview, overviews)]
    return "\n".join([MARK, "# Leaderboard", "", contents, "", _PREFACE, *sections]).rstrip() + "\n"


def _contents(parts: Sequence[SectionFigures], overviews: Sequence[BasesOverview]) -> str:
    """Return a table of the sections, each with a link and its evidence."""
    titled = [(section_title(part.section), part.section) for part in parts]
    titled += [(overview_title(overview), overview.section) for overview in overviews]
    rows = [
        [
            f"[{escape_markdown(title)}](#{_anchor(title)})",
            str(len(section.rows)),
            str(max(len(row.runs) for row in section.rows)),
            items_name(section),
            str(len(section.languages)),
        ]
        for title, section in titled
    ]
    return markdown_table(["section", "models", "seeds", "items per language", "languages"], rows, left=(0,))


def _anchor(title: str) -> str:
    """Return the anchor that GitHub and MyST give to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def mean_with_seeds(model: ModelFigures, name: str) -> str:
    """Return the headline's mean, with the lowest and highest seed in parentheses if there are several."""
    if name not in model.spread:
        return NONE
    mean = format_percent(next(iter(model.means.values()))[name].value)
    if len(model.seeds) == 1 or mean == NONE:
        return mean
    low, high = model.spread[name]
    return f"{mean} ({format_percent(low)}–{format_percent(high)})"


def retrieval_columns(models: Sequence[ModelFigures]) -> dict[str, int]:
    """Return the layer of each retrieval column. Figures of two layers do not compare."""
    layers = retrieval_layers(models)
    return {"retrieval" if len(layers) == 1 else f"retrieval, layer {layer}": layer for layer in layers}


def retrieval_cell(section: BoardSection, model: ModelFigures, layer: int) -> str:
    """Return retrieval before and after training in per cent, such as `29 → 64`.

    The mean is over the aligned languages, or over all measured ones if none is aligned. Seeds that were
    measured on different candidates have a figure each. A dash if the model was not measured at this layer.
    """
    figures = []
    for measured in model.retrieval:
        if measured.layer != layer:
            continue
        codes = list(measured.after)
        codes = [code for code in codes if section.role(code) == "aligned"] or codes
        after = _whole(measured.after, codes)
        alone = model.arm == "base" or not measured.before
        figures.append(after if alone else f"{_whole(measured.before, codes)} → {after}")
    return ", ".join(figures) or NONE


def cut_off_cell(section: BoardSection, model: ModelFigures) -> str:
    """Return the share of outputs that reached the token limit, or a dash if not known."""
    if model.cut_off is None:
        return NONE
    items = sum(section.first.task(code).n for code in section.languages)
    return format_percent(model.cut_off / (items * len(model.seeds)))


def _whole(accuracy: dict[str, float], codes: Sequence[str]) -> str:
    known = [accuracy[code] for code in codes if code in accuracy]
    return f"{100 * sum(known) / len(known):.0f}" if known else NONE


def closed_gap(part: SectionFigures, model: ModelFigures) -> str:
    """Return the share of the gap that the model closed on the aligned languages, with its interval."""
    for difference in part.differences:
        if difference.model == model.label and (share := difference.gap_closed.get("aligned")):
            return format_bounds(share)
    return NONE


def _section(part: SectionFigures) -> str:
    section = part.section
    title = escape_markdown(section_title(section))
    blocks = [f"## {title}", section_facts(part)]
    words = describe_results(part)
    lonely = [
        escape_markdown(model.label)
        for model in part.models
        if model.recipe
        and model.arm not in ("base", "baseline")
        and model.label not in {difference.model for difference in part.differences}
    ]

    # The main table, its footnotes, and the results in words.
    blocks.append(_main_table(part))
    if _engines_differ(part):
        blocks.append(
            "‡ The rows come from different engines or dtypes, so differences between them "
            "may not come from the model."
        )
    blocks += [
        f"§ {escape_markdown(model.label)} was trained on text of a test set: "
        f"{escape_markdown('; '.join(model.overlap))}."
        for model in part.models
        if model.overlap
    ]
    blocks += [
        f"The training text of {escape_markdown(model.label)} was not compared with the test text: "
        f"{escape_markdown('; '.join(model.overlap_unchecked))}."
        for model in part.models
        if model.overlap_unchecked
    ]
    states = {model.trust for model in part.models}
    blocks += [f"{MARKS[state]} {sentence}" for state, sentence in _TRUST.items() if state in states]
    blocks.append("\n".join(f"- {line}" for line in words))
    if lonely:
        blocks.append(f"No baseline of the same recipe and training dtype here: {', '.join(lonely)}.")

    # The detailed tables.
    blocks += ["### Resource classes, retrieval and engine", _class_table(part)]
    if part.differences:
        blocks += [
            "### Differences from the baseline",
            _difference_table(part, ["aligned", "supervised", "unseen"]),
            _difference_table(part, ["high", "mid", "low"]),
        ]
    blocks.append(f"![{headline_title(part)} by {section.unit}: {title}]({part.plot})")
    blocks += [f"### {headline_title(part)} by {section.unit}".replace("slot", "Slot"), _language_table(part)]
    blocks += [f"### {section.scorer.DETAIL_TITLE} by {section.unit}", _details_table(part)]
    blocks += loss_tables(part, ordered_languages(section))
    blocks += wording_tables(part)
    if part.comet:
        blocks += ["### COMET by direction", _comet_table(part, part.comet)]
    elif any(task.comet for row in section.rows for run in row.runs for task in run.record.tasks.values()):
        blocks.append(
            "COMET is not shown: no direction has scores of all these records by one COMET model. "
            "Evaluate them all with the same --comet."
        )
    if any(section.repeated(code) for code in section.languages):
        blocks += [
            f"### {headline_title(part)} without repeated items".replace("slot", "Slot"),
            _repeated_table(part),
        ]
    blocks.append(_sources(part))
    return "\n\n".join(block for block in blocks if block) + "\n"


def _engines_differ(part: SectionFigures) -> bool:
    return len({(model.engine, model.dtype) for model in part.models}) > 1


def _engine(part: SectionFigures, model: ModelFigures) -> str:
    mark = " ‡" if _engines_differ(part) else ""
    # Outputs made elsewhere have no dtype and no device.
    known = ", ".join(filter(None, [f"{model.engine} {model.dtype}".strip(), "/".join(model.devices)]))
    return escape_markdown(known) + mark


def marked_label(model: ModelFigures) -> str:
    """Return a row's label, with § if it was trained on text of a test set."""
    return f"{model.label} §" if model.overlap else model.label


def _row_title(model: ModelFigures) -> str:
    """Return `marked_label` with the mark of trust, as Markdown."""
    return escape_markdown(" ".join(filter(None, [marked_label(model), MARKS[model.trust]])))


def _main_table(part: SectionFigures) -> str:
    sets = [name for name in ("all", *ROLES) if name in language_sets(part.section)]
    header = ["model", "seeds", *(f"{name} ({len(language_sets(part.section)[name])})" for name in sets)]
    header += [f"gap {name}" for name in _gaps(part)]
    header += ["gap closed"] if "aligned" in _gaps(part) else []
    rows = [
        [
            _row_title(model),
            "" if model.seeds == [None] else " ".join(str(seed) for seed in model.seeds),
            *(mean_with_seeds(model, name) for name in sets),
            *(format_percent(model.gap[name].value) for name in _gaps(part)),
            *([closed_gap(part, model)] if "aligned" in _gaps(part) else []),
        ]
        for model in part.models
    ]
    return markdown_table(header, rows, left=(0,))


def _gaps(part: SectionFigures) -> list[str]:
    return [name for name in ("non-supervised", "aligned") if name in part.models[0].gap]


def _class_table(part: SectionFigures) -> str:
    """Return the means by resource class, retrieval, and how the outputs were made."""
    sets = [name for name in ("high", "mid", "low") if name in language_sets(part.section)]
    header = ["model", *(f"{name} ({len(language_sets(part.section)[name])})" for name in sets)]
    columns = retrieval_columns(part.models)
    header += [*columns, "cut off", "items", "engine"]
    rows = [
        [
            _row_title(model),
            *(mean_with_seeds(model, name) for name in sets),
            *(retrieval_cell(part.section, model, layer) for layer in columns.values()),
            cut_off_cell(part.section, model),
            items_name(part.section),
            _engine(part, model),
        ]
        for model in part.models
    ]
    return markdown_table(header, rows, left=(0, len(header) - 1))


def _difference_table(part: SectionFigures, sets: Sequence[str]) -> str:
    """Return the differences of all metrics on the sets of languages that the section has."""
    shown = [name for name in sets if name in language_sets(part.section)]
    rows = [
        [
            escape_markdown(f"{difference.model} {MINUS} {difference.baseline}"),
            part.section.scorer.METRICS[metric].title,
            *(format_difference(difference.means[metric][name]) for name in shown),
        ]
        for difference in part.differences
        for metric in part.section.scorer.DIFFERENCE_METRICS
        if metric in part.section.metrics
    ]
    return markdown_table(["models", "metric", *shown], rows, left=(0, 1))


def ordered_languages(section: BoardSection) -> list[str]:
    """Return the languages by role, then by code."""
    return [code for role in ROLES for code in language_sets(section).get(role, [])]


def _language_columns(section: BoardSection, code: str) -> list[str]:
    return [
        f"{language_title(code)} `{code}`",
        section.role(code),
        resource_of(code),
        f"{section.first.task(code).n:,}",
    ]


def _language_header(part: SectionFigures) -> list[str]:
    """Return the titles of `_language_columns`, and a column per model."""
    return [part.section.unit, "role", "class", "n", *(escape_markdown(model.label) for model in part.models)]


def _language_table(part: SectionFigures) -> str:
    """Return the scores by language, and below them the differences from the baseline."""
    metric = part.section.scorer.HEADLINE
    codes = ordered_languages(part.section)
    header = _language_header(part)
    rows = [
        [
            *_language_columns(part.section, code),
            *(format_with_error(model.languages[code][metric]) for model in part.models),
        ]
        for code in codes
    ]
    tables = ["± standard error over documents and seeds.", markdown_table(header, rows, left=(0, 1, 2))]
    if part.differences:
        names = [f"{change.model} {MINUS} {change.baseline}" for change in part.differences]
        rows = [
            [
                f"{language_title(code)} `{code}`",
                *(format_difference(change.languages[code][metric]) for change in part.differences),
            ]
            for code in codes
        ]
        tables.append(markdown_table([part.section.unit, *map(escape_markdown, names)], rows, left=(0,)))
    return "\n\n".join(tables)


def _details_table(part: SectionFigures) -> str:
    metrics = [metric for metric in part.section.scorer.DETAIL_METRICS if metric in part.section.metrics]
    header = _language_header(part)
    rows = [
        [
            *_language_columns(part.section, code),
            *(
                " / ".join(format_percent(model.languages[code][metric].value) for metric in metrics)
                for model in part.models
            ),
        ]
        for code in ordered_languages(part.section)
    ]
    names = " / ".join(part.section.scorer.METRICS[metric].title for metric in metrics)
    return f"Each cell: {names}, in per cent.\n\n" + markdown_table(header, rows, left=(0, 1, 2))


def _comet_table(part: SectionFigures, comet: CometComparison) -> str:
    """Return the table of COMET's scores and differences by direction. Only differences have a mean."""
    section, sets = part.section, comet_sets(part.section, comet)
    header = [section.unit, "role", "class", "n", *map(escape_markdown, comet.models)]
    header += [escape_markdown(f"{change.model} {MINUS} {change.baseline}") for change in comet.differences]
    rows = [
        [
            *_language_columns(section, code),
            *(format_with_error(of[code]) for of in comet.models.values()),
            *(format_difference(change.languages[code]) for change in comet.differences),
        ]
        for code in ordered_languages(section)
        if code in comet.directions
    ]
    if comet.differences:
        rows += [
            [f"mean of {len(sets[role])}", role, "", "", *(NONE for _ in comet.models)]
            + [format_difference(change.means[role]) for change in comet.differences]
            for role in ROLES
            if sets.get(role)
        ]
    of = f"{len(comet.directions)} of the {len(section.languages)} directions"
    return (
        f"{escape_markdown(comet.name)} (digest `{comet.digest[:12]}`, unbabel-comet "
        f"{escape_markdown(comet.version)}), times 100, ± standard error over documents and seeds, on {of}. "
        f"Scores compare models on one direction, never two directions.\n\n"
        + markdown_table(header, rows, left=(0, 1, 2))
    )


def _repeated_table(part: SectionFigures) -> str:
    header = [
        part.section.unit,
        "role",
        "class",
        "n",
        "repeated",
        *(escape_markdown(model.label) for model in part.models),
    ]
    metric, rows = part.section.scorer.HEADLINE, []
    for code in (code for code in ordered_languages(part.section) if part.section.repeated(code)):
        cells = [*_language_columns(part.section, code), f"{part.section.repeated(code):,}"]
        for model in part.models:
            without = model.without_repeated.get(code)
            score = format_percent(model.languages[code][metric].value)
            cells.append(NONE if without is None else f"{score} → {format_percent(without)}")
        rows.append(cells)
    return (
        "Repeated: items that occur verbatim in the training split of the same data set and language, "
        "whether or not a model was trained on it. Each cell: all items → without them.\n\n"
        + markdown_table(header, rows, left=(0, 1, 2))
    )


def _sources(part: SectionFigures) -> str:
    names = ", ".join(code_span(Path(file).stem) for model in part.models for file in model.records)
    return f"From the records {names}."
