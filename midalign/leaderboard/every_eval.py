"""Records as aggregate files of Every Eval Ever, a schema for exchanging evaluation results.

The schema is `eval.schema.json` of https://pypi.org/project/every-eval-ever/. Files lie in
`data/<benchmark>/<developer>/<model>/<uuid>.json`.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any

from midalign import __version__
from midalign.data.registry import DOWNLOADED, data_set
from midalign.escaping import plain_text
from midalign.leaderboard.exports import source_of, tidy_rows
from midalign.leaderboard.load import Run
from midalign.metrics import scorer

SCHEMA_VERSION = "0.3.0"


def export_every_eval(runs: Sequence[Run]) -> dict[str, str]:
    """Return the files of a schema folder by path: one per record and task group."""
    files = {}
    for run in runs:
        developer, _, model = _model_id(run).partition("/")
        path = "/".join(["data", *map(_path_part, (run.group, developer, model)), f"{_file_id(run)}.json"])
        files[path] = json.dumps(_aggregate(run), indent=2, ensure_ascii=False) + "\n"
    return files


def _file_id(run: Run) -> uuid.UUID:
    """Return an identifier in the form of a random one. The same record gives the same one."""
    text = f"{run.group}/{run.record.name}/{run.record.created.isoformat()}"
    return uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4)


def _path_part(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip(".-")[:100] or "unnamed"


def _model_id(run: Run) -> str:
    """Return developer/name: that of a base on the hub, or `unknown` and the model's name."""
    record = run.record
    if record.adapter is None and record.base.name.count("/") == 1:
        return "/".join(map(_path_part, record.base.name.split("/")))
    return f"unknown/{_path_part(record.adapter.name if record.adapter else record.base.name)}"


def _aggregate(run: Run) -> dict[str, Any]:
    record, seconds = run.record, run.record.created.timestamp()
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{_path_part(run.group)}/{_model_id(run)}/{seconds:.0f}",
        "evaluation_timestamp": record.created.isoformat(),
        "retrieved_timestamp": f"{seconds:.0f}",
        "source_metadata": {
            "source_name": "midalign",
            "source_type": "evaluation_run",
            "source_organization_name": "midalign",
            "evaluator_relationship": "other",
            "additional_details": {"record": plain_text(record.name)},
        },
        "eval_library": {
            "name": "midalign",
            "version": plain_text(record.packages.get("midalign", __version__)),
            "additional_details": {plain_text(k): plain_text(v) for k, v in record.packages.items()},
        },
        "model_info": {
            "name": plain_text(record.adapter.name if record.adapter else record.base.name),
            "id": _model_id(run),
            "inference_engine": {"name": plain_text(record.engine.name)},
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "base": plain_text(record.base.name),
                "base_digest": record.base.digest or "",
                "adapter_digest": record.adapter.digest if record.adapter else "",
                "arm": plain_text(record.arm),
                "dtype": plain_text(record.engine.dtype),
            },
        },
        "evaluation_results": [_result(run, row) for row in tidy_rows([run]) if row["value"] is not None],
    }


def _result(run: Run, row: dict[str, Any]) -> dict[str, Any]:
    metric = scorer(row["family"]).METRICS[row["metric"]]
    source = source_of(row["task"])
    largest: float | str = "Infinity" if metric.higher_is_better is None else 100.0 if metric.percent else 1.0
    error = (
        {
            "uncertainty": {
                "standard_error": {"value": row["stderr"], "method": "bootstrap"},
                "num_samples": row["n"],
            }
        }
        if row["stderr"] is not None
        else {}
    )
    limit = run.task(row["language"]).max_gen_toks
    # The temperature of outputs made elsewhere is not known.
    arguments: dict[str, Any] = {} if row["engine"] == "external" else {"temperature": 0.0}
    arguments |= {"max_tokens": limit} if limit else {}
    return {
        "evaluation_result_id": f"{plain_text(row['task'])}/{row['metric']}",
        "evaluation_name": plain_text(row["task"]),
        "source_data": _source(source, row),
        "metric_config": {
            "metric_id": row["metric"],
            "metric_name": metric.title,
            "metric_unit": "percent" if metric.percent else "proportion",
            "lower_is_better": metric.higher_is_better is False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": largest,
        },
        "score_details": {"score": row["value"], **error},
        "generation_config": {
            "generation_args": arguments,
            "additional_details": {
                "regime": plain_text(row["regime"]),
                "prompt_digest": row["prompt_digest"] or "",
            },
        },
    }


def _source(source: str, row: dict[str, Any]) -> dict[str, Any]:
    details = {
        "split": plain_text(row["split"]),
        "language": row["language"],
        "digest": plain_text(row["data_digest"]),
        "task_version": f"{row['task_version']:g}",
    }
    about = {"dataset_name": plain_text(source), "additional_details": details}
    # Other sources are a user's own data, and tasks of another version.
    address = re.search(r"https?://\S+", data_set(source).CITATION) if source in DOWNLOADED else None
    if address:
        return {**about, "source_type": "url", "url": [address[0].rstrip(".,)")]}
    return {**about, "source_type": "other"}
