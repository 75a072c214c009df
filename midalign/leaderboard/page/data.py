"""The page's data: an index that is loaded first, and one file per section and per row of a section."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from midalign.adapter import Manifest
from midalign.leaderboard.compare import MOST_PAIRED_ROWS, Difference, ModelFigures
from midalign.leaderboard.load import Run
from midalign.leaderboard.page.models import PageModel, collect_models, parameters_in_name, size_bucket
from midalign.leaderboard.page.references import UPPER_BOUND, ReferenceRow, is_upper_bound
from midalign.leaderboard.page.samples import row_samples
from midalign.leaderboard.section_figures import (
    SectionFigures,
    headline_title,
    items_span,
    sample_name,
    section_title,
)
from midalign.leaderboard.sections import BoardSection, language_sets, language_title, resource_of
from midalign.leaderboard.statistics import DRAWS, LEVEL, Estimate
from midalign.leaderboard.trust import weakest

Data = dict[str, Any]


def page_index(
    parts: Sequence[SectionFigures], references: Sequence[ReferenceRow], analyses: Sequence[Data]
) -> Data:
    """Return what the page needs to show its first table: tasks, languages, models and their scores."""
    models = collect_models(parts)
    tasks = _tasks(parts)
    codes = sorted({code for part in parts for code in part.section.languages})
    return {
        "level": LEVEL,
        "draws": DRAWS,
        "paired_rows": MOST_PAIRED_ROWS,
        "languages": {code: {"name": language_title(code), "resource": resource_of(code)} for code in codes},
        "tasks": tasks,
        "sections": [_section_summary(part, models, analyses) for part in parts],
        "models": [_model_summary(model) for model in models],
        "references": [_reference(row, parts) for row in references] + _upper_bounds(models),
        "analyses": list(analyses),
    }


def section_data(part: SectionFigures) -> Data:
    """Return a section's figures: facts, every row with every language, and the differences."""
    section = part.section
    metrics = section.metrics  # computed over all records at every access
    tasks = {code: section.first.task(code) for code in section.languages}
    return {
        "slug": part.slug,
        "facts": _facts(part),
        "sets": language_sets(section),
        "metrics": {
            name: {"title": metric.title, "percent": metric.percent} for name, metric in metrics.items()
        },
        "languages": {
            code: {
                "n": task.n,
                "version": task.version,
                "signatures": task.signatures,
                "data": task.data_digest,
                "prompts": task.prompt_digest,
                "limit": task.max_gen_toks,
                "repeated": section.repeated(code),
            }
            for code, task in tasks.items()
        },
        "decoding": section.first.record.decoding,
        "rows": [_row(section, model, list(metrics)) for model in part.models],
        "bounds": [_bound(part, row) for row in range(len(section.rows))],
        "runs": [[_run(section, run) for run in row.runs] for row in section.rows],
        "samples": [row_samples(section, row) for row in section.rows],
        "differences": [_difference(section, difference) for difference in part.differences],
        "plot": part.plot,
    }


def pair_data(part: SectionFigures) -> dict[str, Data]:
    """Return the differences of pairs without a published one, by the name of their file."""
    differences = [_difference(part.section, difference) for difference in part.other_pairs]
    return {f"{part.slug}-{entry['row']}-{entry['baseline']}": entry for entry in differences}


def _tasks(parts: Sequence[SectionFigures]) -> list[Data]:
    """Return the tasks: the same group, languages, data and items on any base."""
    tasks: dict[str, Data] = {}
    for part in parts:
        section = part.section
        tasks.setdefault(
            _task_key(section),
            {
                "id": _task_key(section),
                "title": f"{section.group.removeprefix('midalign_')}, {_short_sample(section)}",
                "group": section.group,
                "family": section.family,
                "headline": headline_title(part),
                "comparable": section.scorer.COMPARABLE,
                "sample": sample_name(section),
                "items": items_span(section),
                "languages": section.languages,
            },
        )
    # Versions and languages may differ where group and sample are equal.
    titles = [task["title"] for task in tasks.values()]
    for task in tasks.values():
        if titles.count(task["title"]) > 1:
            task["title"] += f" ({task['id'][:4]})"
    return list(tasks.values())


def _short_sample(section: BoardSection) -> str:
    sample = section.first.record.sample
    regime = "" if section.regime == "free" else f", {section.regime}"
    wording = f", wording {section.wording}" if section.wording != 1 else ""
    return f"{sample.split}{f' {sample.limit}' if sample.limit else ''}{regime}{wording}"


def _task_key(section: BoardSection) -> str:
    """Return the digest of what two sections share whose scores are on the same items."""
    sample = section.first.record.sample
    parts: list[Any] = [section.group, sample.split, sample.limit, sample.seed, section.regime]
    parts += [section.wording] if section.wording != 1 else []
    for code in section.languages:
        task = section.first.task(code)
        parts += [code, task.version, task.data_digest, section.first.ids[code]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def _section_summary(part: SectionFigures, models: Sequence[PageModel], analyses: Sequence[Data]) -> Data:
    section = part.section
    entries = [run.record for row in section.rows for run in row.runs]
    adapters = {entry.adapter.digest for entry in entries if entry.adapter}
    base = section.first.record.base.digest
    by_row = {index: model.key for model in models for other, index in model.places if other is part}
    return {
        "slug": part.slug,
        "title": section_title(section),
        "task": _task_key(section),
        "base": section.first.record.base.name,
        "roles": [section.role(code) for code in section.languages],
        "rows": [by_row[index] for index in range(len(section.rows))],
        "analyses": [
            number
            for number, analysis in enumerate(analyses)
            if analysis["base"] == base and analysis["adapter"] in (None, *adapters)
        ],
    }


def _reference(reference: ReferenceRow, parts: Sequence[SectionFigures]) -> Data:
    """Return a reference row with its scores on the tasks of the same group, version and split."""
    cells: dict[str, Data] = {}
    for part in parts:
        section = part.section
        versions = {section.first.task(code).version for code in section.languages}
        for scored in reference.groups:
            if (scored.group, {scored.version}) == (section.group, versions) and (
                scored.split == section.first.record.sample.split
            ):
                scores = [scored.scores.get(code) for code in section.languages]
                cells.setdefault(_task_key(section), {"section": part.slug, "scores": scores})
    return {"title": reference.title, "cells": cells}


def _upper_bounds(models: Sequence[PageModel]) -> list[Data]:
    """Return a reference row per model that is the upper bound of a task, with its scores there."""
    rows = []
    for model in models:
        bounds = {
            _task_key(part.section): _cell(part, row) for part, row in model.places if _bound(part, row)
        }
        if bounds:
            title = f"{UPPER_BOUND}: {model.title}"
            base = model.row.runs[0].record.base.name
            rows.append({"title": title, "model": model.key, "base": base, "cells": bounds})
    return rows


def _bound(part: SectionFigures, row: int) -> bool:
    return is_upper_bound(part.section, part.section.rows[row])


def _model_summary(model: PageModel) -> Data:
    row = model.row
    entry = row.runs[0].record
    parameters = parameters_in_name(entry.base.name)
    cells: dict[str, Data] = {}
    for part, index in model.places:
        if _bound(part, index):  # it has no rank, and a reference row
            continue
        # A base occurs once per choice of roles, with the same scores.
        cells.setdefault(_task_key(part.section), _cell(part, index))
    engine, dtype = row.engine
    manifest = entry.adapter.manifest if entry.adapter else None
    return {
        "id": model.key,
        "title": model.title,
        "base": entry.base.name,
        "digest": entry.base.digest,
        "arm": row.arm,
        "recipe": entry.recipe.name if entry.recipe and row.arm != "base" else None,
        "settings": manifest.known_settings if manifest else [],
        "licence": manifest.base_licence if manifest else None,
        "size": parameters,
        "bucket": size_bucket(parameters),
        "engine": f"{engine} {dtype}".strip(),
        "seeds": len(row.runs),
        "overlap": any(part.models[index].overlap for part, index in model.places),
        "trust": weakest(part.models[index].trust for part, index in model.places),
        "cells": cells,
    }


def _cell(part: SectionFigures, index: int) -> Data:
    headline, figures = part.section.scorer.HEADLINE, part.models[index]
    return {
        "section": part.slug,
        "row": index,
        "scores": [figures.languages[code][headline].value for code in part.section.languages],
    }


def _facts(part: SectionFigures) -> list[list[str]]:
    section, entry = part.section, part.section.first.record
    versions = sorted({f"{section.first.task(code).version:g}" for code in section.languages})
    note = f" ({entry.base.note})" if entry.base.note else ""
    facts = [
        ["Task group", section.group],
        ["Base", f"{entry.base.name}{note}"],
        ["Base digest", entry.base.digest or "not recorded"],
        ["Sample", sample_name(section)],
        ["Items per language", items_span(section)],
        ["Task version", ", ".join(versions)],
        ["Main score", headline_title(part)],
    ]
    if section.tokenizer:
        facts.append(["Tokenizer digest", section.tokenizer])
    return facts


def _row(section: BoardSection, model: ModelFigures, metrics: Sequence[str]) -> Data:
    headline = section.scorer.HEADLINE
    return {
        "label": model.label,
        "arm": model.arm,
        "seeds": model.seeds,
        "means": {name: _interval(mean) for name, mean in model.means[headline].items()},
        "spread": model.spread,
        "gap": {name: _interval(gap) for name, gap in model.gap.items()},
        "retrieval": [
            {
                "layer": measured.layer,
                "candidates": measured.candidates,
                "pooling": measured.pooling,
                "before": measured.before,
                "after": measured.after,
            }
            for measured in model.retrieval
        ],
        "scores": [_interval(model.languages[code][headline]) for code in section.languages],
        "details": {
            name: [model.languages[code][name].value for code in section.languages]
            for name in metrics
            if name != headline
        },
        "cut_off": model.cut_off,
        "overlap": model.overlap,
        "unchecked": model.overlap_unchecked,
        "without_repeated": model.without_repeated,
    }


def _difference(section: BoardSection, difference: Difference) -> Data:
    headline = section.scorer.HEADLINE
    labels = [row.label for row in section.rows]
    return {
        "row": labels.index(difference.model),
        "baseline": labels.index(difference.baseline),
        "seeds": difference.seeds,
        "paired": difference.paired_seeds,
        "means": {name: _interval(mean) for name, mean in difference.means[headline].items()},
        "scores": [_interval(difference.languages[code][headline]) for code in section.languages],
        "closed": {name: _interval(share) for name, share in difference.gap_closed.items() if share},
        "baseline_gap": {name: _interval(gap) for name, gap in difference.baseline_gap.items()},
    }


def _interval(estimate: Estimate) -> list[float]:
    """Return value, lower bound, upper bound and standard error."""
    return [estimate.value, estimate.low, estimate.high, estimate.stderr]


def _run(section: BoardSection, run: Run) -> Data:
    """Return how one record of a row was made and what it cost on the section's tasks."""
    entry = run.record
    tasks = [run.task(code) for code in section.languages]
    adapter, manifest = entry.adapter, entry.adapter.manifest if entry.adapter else None
    return {
        "record": run.file,
        "trust": run.trust,
        "created": entry.created.date().isoformat(),
        "seed": entry.seed,
        "engine": " ".join(filter(None, [entry.engine.name, entry.engine.dtype, entry.engine.device])),
        "seconds": sum(task.seconds for task in tasks),
        "tokens": sum(task.tokens for task in tasks),
        "packages": entry.packages,
        "adapter": {"name": adapter.name, "digest": adapter.digest} if adapter else None,
        "recipe": {"name": entry.recipe.name, "digest": entry.recipe.digest} if entry.recipe else None,
        "training": _training(manifest) if manifest else None,
    }


def _training(manifest: Manifest) -> Data:
    """Return what a manifest says about training."""
    return {
        "task": manifest.task,
        "layer": manifest.layer,
        "pairs": manifest.pairs,
        "updates": manifest.updates,
        "tokens": manifest.tokens,
        "seconds": manifest.seconds,
        "dtype": manifest.dtype,
        "supervised": manifest.supervised,
        "aligned": manifest.aligned,
        "losses": manifest.training,
        "parents": [parent.described for parent in manifest.parents or []],
    }
