"""Records in the formats that others read: rows for pandas and CSV, model-index for the hub, LaTeX."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign import harness
from midalign.data.registry import HUB_NAMES
from midalign.errors import MidalignError
from midalign.escaping import latex_text, plain_text
from midalign.languages import ROLES
from midalign.leaderboard.formatting import format_percent, latex_table
from midalign.leaderboard.load import Run, load_runs
from midalign.leaderboard.section_figures import SectionFigures, headline_title, section_title
from midalign.leaderboard.sections import language_sets, resource_of
from midalign.metrics import bootstrap, scorer

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import EvalResult

TASK_TYPES = {
    "slot": "token-classification",
    "slot_spans": "token-classification",
    "structured": "text-generation",
    "translation": "translation",
}
"""The hub's name of what a family does."""


def tidy_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row per record, task and metric, in the order of the records.

    Values and standard errors of schema version 1 are computed as version 2 does: None without a case, and
    `off_target` per identified output. Values are shares, or per cent where `percent` is true.
    """
    return [row for run in runs for code in run.languages for row in _task_rows(run, code)]


def _task_rows(run: Run, code: str) -> Iterator[dict[str, Any]]:
    record, task, name = run.record, run.task(code), run.task_name(code)
    counts, family = run.counts[code], scorer(task.family)
    for metric, stated in task.metrics.items():
        described = family.METRICS[metric]
        value, error = float(described(counts.sum(axis=0, dtype=np.int64))), stated.stderr
        if record.schema_version == 1:
            error = bootstrap.stderr(counts.astype(np.int64), described)
        yield {
            "record": record.name,
            "model": record.adapter.name if record.adapter else record.base.name,
            "arm": record.arm,
            "seed": record.seed,
            "recipe": record.recipe.name if record.recipe else None,
            "base": record.base.name,
            "base_digest": record.base.digest,
            "adapter_digest": record.adapter.digest if record.adapter else None,
            "group": run.group,
            "task": name,
            "task_version": task.version,
            "family": task.family,
            "language": code,
            "role": record.roles.of(task.language),
            "resource": resource_of(code),
            "split": record.sample.split,
            "limit": record.sample.limit,
            "n": task.n,
            "metric": metric,
            "value": None if np.isnan(value) else value,
            "stderr": None if error is None or np.isnan(error) else error,
            "percent": described.percent,
            "higher_is_better": described.higher_is_better,
            "regime": str(record.decoding.get("regime", "free")),
            "wording": record.wording,
            "engine": record.engine.name,
            "dtype": record.engine.dtype,
            "data_digest": task.data_digest,
            "prompt_digest": task.prompt_digest,
            "created": record.created.isoformat(),
        }


def record_frame(folder: str | Path) -> "pd.DataFrame":
    """Return the records of a folder as a data frame, one row per record, task and metric.

    The columns are those of `midalign leaderboard export --format csv`. Raises RecordError as `load_runs`.
    """
    import pandas as pd

    return pd.DataFrame(tidy_rows(load_runs(Path(folder))))


def export_csv(runs: Sequence[Run]) -> str:
    """Return the tidy rows as CSV. Undefined values are empty, and foreign text is on one line."""
    rows, text = tidy_rows(runs), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {key: plain_text(cell) if isinstance(cell, str) else cell for key, cell in row.items()}
        writer.writerow(cells)
    return text.getvalue()


def export_model_index(runs: Sequence[Run]) -> dict[str, str]:
    """Return the YAML front matter with the scores of each model, by its name.

    A model card that begins with it shows the scores on the hub. Only defined values are scores there.
    """
    from huggingface_hub import ModelCardData

    return {
        model: f"---\n{ModelCardData(model_name=plain_text(model), eval_results=of).to_yaml()}\n---\n"
        for model, of in hub_results(runs).items()
    }


def hub_results(runs: Sequence[Run]) -> "dict[str, list[EvalResult]]":
    """Return the scores of each model, by its name, as the hub's model cards have them."""
    from huggingface_hub import EvalResult

    results: dict[str, list[EvalResult]] = {}
    for row in tidy_rows(runs):
        if row["value"] is None:
            continue
        source = source_of(row["task"])
        results.setdefault(row["model"], []).append(
            EvalResult(
                task_type=TASK_TYPES[row["family"]],
                dataset_type=plain_text(HUB_NAMES.get(source, source)),
                dataset_name=plain_text(row["task"]),
                dataset_config=row["language"],
                dataset_split=plain_text(row["split"]),
                dataset_revision=plain_text(row["data_digest"]),
                dataset_args={"items": row["n"], "task_version": row["task_version"]},
                metric_type=row["metric"],
                metric_name=scorer(row["family"]).METRICS[row["metric"]].title,
                metric_value=row["value"],
                metric_args=_conditions(row) or None,
            )
        )
    return results


def _conditions(row: dict[str, Any]) -> dict[str, Any]:
    """Return decoding and sample size, which distinguish results of one data set and split on the hub."""
    decoding: dict[str, Any] = {}
    decoding |= {} if row["regime"] == "free" else {"decoding": plain_text(row["regime"])}
    decoding |= {} if row["wording"] == 1 else {"prompt": f"wording {row['wording']}"}
    return decoding if row["limit"] is None else {**decoding, "items": row["n"]}


def source_of(task: str) -> str:
    """Return the data set of a task, or the task's name if this version does not have it."""
    try:
        return str(harness.metadata(task)["source"])
    except (MidalignError, KeyError):
        return task


def export_latex(parts: Sequence[SectionFigures]) -> str:
    """Return a booktabs table per section: the headline in per cent, by role, with its standard error."""
    return "\n".join(_latex_table(part) for part in parts)


def _latex_table(part: SectionFigures) -> str:
    sets = [name for name in ("all", *ROLES) if name in language_sets(part.section)]
    header = ["model", *(f"{name} ({len(language_sets(part.section)[name])})" for name in sets)]
    rows = []
    for model in part.models:
        means = [model.means[part.section.scorer.HEADLINE][name] for name in sets]
        cells = [
            rf"{latex_text(format_percent(mean.value))} $\pm$ {latex_text(format_percent(mean.stderr))}"
            for mean in means
        ]
        rows.append([latex_text(model.label), *cells])
    caption = f"{section_title(part.section)}: {headline_title(part)} in %, ± standard error."
    return latex_table(header, rows, latex_text(caption))
