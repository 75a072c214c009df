"""Choose the weights with the best score on the validation split."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from midalign import adapter, bases, record
from midalign.evaluate.settings import EvalReporter, EvalSettings
from midalign.locks import locked
from midalign.merge import merge_adapters
from midalign.merge.manifest import text_digest
from midalign.merge.weights import MergeMethod, MergeWeights, check_choices, describe_merge
from midalign.metrics import scorer


@dataclass(frozen=True)
class MergeCandidate:
    """Weights that a search has scored."""

    weights: MergeWeights
    folder: Path
    score: float
    """Mean of the tasks' headline metrics on the validation split, as a share."""


def search_weights(
    sources: Sequence[Path],
    weights: Sequence[MergeWeights],
    folder: Path,
    *,
    base: str,
    tasks: Sequence[str],
    limit: int | None,
    report: EvalReporter,
    method: MergeMethod = "cat",
    rank: int | None = None,
    density: float | None = None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
) -> list[MergeCandidate]:
    """Merge with each of the given weights, score on the validation split, and return the best first.

    Merged adapters and records stay in `folder`, named by everything that determines them. So an interrupted
    search resumes, and a search with other adapters or tasks does not reuse them.
    """
    from midalign.evaluate import run
    from midalign.leaderboard.load import load_record

    # Merge the candidates that do not exist yet.
    parents = [adapter.adapter_digest(source) for source in sources]
    candidates = list(dict.fromkeys(weights))
    for candidate in candidates:
        check_choices(candidate, method, rank, density)
    folders = []
    for candidate in candidates:
        how = describe_merge(candidate, method, rank, density)
        folders.append(folder / text_digest(json.dumps([parents, how]))[:12])
        with locked(folders[-1]):
            if not folders[-1].exists():
                merge_adapters(sources, candidate, folders[-1], method=method, rank=rank, density=density)

    # Score all of them. The name of the results has everything else that determines a score.
    source = bases.resolve(base)
    conditions = [sorted(tasks), limit, adapter.base_digest(source), adapter.tokenizer_digest(source)]
    if apply_chat_template or system_instruction is not None:
        conditions += [apply_chat_template, system_instruction]
    settings = EvalSettings(
        base=base,
        tasks=tuple(tasks),
        output=folder / f"results-{text_digest(json.dumps(conditions))[:12]}",
        adapters=tuple(folders),
        adapters_only=True,
        split="validation",
        limit=limit,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
    )
    scores = [headline_share(load_record(path)) for path in run.evaluate_models(settings, report)]
    scored = [MergeCandidate(*values) for values in zip(candidates, folders, scores, strict=True)]
    return sorted(scored, key=lambda candidate: -candidate.score)


def headline_share(entry: record.Record) -> float:
    """Return `MergeCandidate.score` of a record."""
    shares = []
    for task in entry.tasks.values():
        name, headline = next(iter(task.metrics.items()))
        if headline.value is not None:
            shares.append(headline.value / (100 if scorer(task.family).METRICS[name].percent else 1))
    return sum(shares) / len(shares) if shares else 0.0
