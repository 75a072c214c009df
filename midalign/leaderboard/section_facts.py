"""The list of facts above a section's tables: base, items, digests, languages, training."""

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress

from midalign import bases, harness
from midalign.errors import TaskError
from midalign.escaping import code_span, escape_markdown
from midalign.languages import ROLES
from midalign.leaderboard.compare import ModelFigures
from midalign.leaderboard.formatting import format_span
from midalign.leaderboard.section_figures import (
    SectionFigures,
    items_span,
    retrieval_layers,
    sample_name,
)
from midalign.leaderboard.sections import BoardSection, language_sets


def section_facts(part: SectionFigures) -> str:
    """Return the Markdown list of what a section's scores were made from."""
    section, entry = part.section, part.section.first.record
    # The base.
    lines = []
    note = f" ({escape_markdown(entry.base.note)})" if entry.base.note else ""
    digest = f", digest `{entry.base.digest[:12]}`" if entry.base.digest else ""
    tokenizer = f", tokenizer `{section.tokenizer[:12]}`" if section.tokenizer else ""
    lines.append(f"- Base: {escape_markdown(entry.base.name)}{note}{digest}{tokenizer}")
    if earlier := bases.EARLIER_VERSIONS.get(entry.base.digest or ""):
        lines.append(f"- These scores belong to an earlier version of the bundled base ({earlier})")

    # Items, data, prompts and the limit of answers.
    lines.append(
        f"- Items per {section.unit}: {items_span(section)}; {escape_markdown(sample_name(section))}"
    )
    tasks = [section.first.task(code) for code in section.languages]
    versions = sorted({f"{task.version:g}" for task in tasks})
    data = _digest(task.data_digest for task in tasks)
    # Outputs made elsewhere have no prompts in their records.
    known = [task.prompt_digest for task in tasks if task.prompt_digest]
    prompts = f"`{_digest(known)}`" if known else "unknown"
    lines.append(
        f"- Task version {', '.join(versions)}; digest of all data `{data}`, of all prompts {prompts}"
    )
    limits = {task.max_gen_toks for task in tasks if task.max_gen_toks is not None}
    if limits:
        lines.append(f"- Token limit of an answer: {format_span(limits)}")

    # Languages by role, and the signatures of their scores.
    for role in ROLES:
        codes = language_sets(section).get(role, [])
        if codes:
            lines.append(f"- {role.capitalize()} ({len(codes)}): {' '.join(codes)}")
    lines += _signature_lines(section)
    if superseded := _superseded(section):
        lines.append(superseded)

    # Training and retrieval.
    recipes = sorted({model.recipe for model in part.models if model.recipe})
    if recipes:
        lines.append(
            f"- {'Recipe' if len(recipes) == 1 else 'Recipes'}: {', '.join(map(escape_markdown, recipes))}"
        )
    lines += _training_dtypes(part.models)
    ways = {
        (measured.candidates, measured.pooling): None for model in part.models for measured in model.retrieval
    }
    layers = ", ".join(map(str, retrieval_layers(part.models)))
    lines += [
        f"- Retrieval: {candidates} candidates per language, states after {layers} blocks, "
        f"{escape_markdown(pooling)}"
        for candidates, pooling in ways
    ]
    return "\n".join(lines)


def _training_dtypes(models: Sequence[ModelFigures]) -> list[str]:
    """Return the line on training dtypes, with their rows if there are several. No line if none is known."""
    labels: dict[str, list[str]] = {}
    for model in models:
        if model.training_dtype:
            labels.setdefault(escape_markdown(model.training_dtype), []).append(escape_markdown(model.label))
    if len(labels) < 2:
        return [f"- Trained in {dtype}" for dtype in labels]
    return ["- Trained in " + "; ".join(f"{dtype}: {', '.join(rows)}" for dtype, rows in labels.items())]


def _signature_lines(section: BoardSection) -> list[str]:
    """Return a line per signature of sacreBLEU, with its directions if there are several signatures."""
    lines = []
    for metric in (metric for metric in ("bleu", "chrf") if metric in section.scorer.METRICS):
        codes: dict[str | None, list[str]] = {}
        for code in section.languages:
            codes.setdefault(section.first.task(code).signatures.get(metric), []).append(code)
        for signature, signed in codes.items():
            where = "" if len(codes) == 1 else f": {' '.join(signed)}"
            missing = metric not in section.first.task(signed[0]).metrics
            shown = (
                code_span(signature) if signature else "no tokenizer here" if missing else "signature unknown"
            )
            lines.append(f"- {section.scorer.METRICS[metric].title}: {shown}{where}")
    return lines


def _superseded(section: BoardSection) -> str | None:
    """Return the line that marks records of an earlier task version, or None for the current version."""
    versions = set()
    for code in section.languages:
        with suppress(TaskError):  # a user's own data, or a task that was removed
            name = section.first.task_name(code)
            versions.add((section.first.task(code).version, float(harness.metadata(name)["version"])))
    earlier = sorted({was for was, now in versions if was != now})
    if not earlier:
        return None
    return (
        f"- **Made before task version {max(now for _, now in versions):g}** and kept as recorded: scores do "
        f"not compare with those of later records, and what these records lack is a dash"
    )


def _digest(digests: Iterable[str]) -> str:
    """Return one short digest of several."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]
