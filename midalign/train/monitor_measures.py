"""Measures during training: how they are computed, named and compared."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from midalign import metrics, record
from midalign.align.retrieval import pair_accuracy, translation_matrix
from midalign.align.trunk import pooled_sentences
from midalign.errors import RecipeError, nearest
from midalign.train.progress import Measures

if TYPE_CHECKING:
    from midalign.train.samples import SampleTokenizer
    from midalign.train.sentence_pairs import Pair

HIGHER_IS_BETTER: dict[str, bool | None] = {
    "task_loss": False,
    "alignment_loss": False,
    "bits_per_character": False,
    "retrieval": True,
    "gradient_cosine": None,
}
"""Measures that need no generation. None if neither direction is better."""


class MeasuredValue(NamedTuple):
    """One measured value."""

    measure: str
    language: str
    """A language, or a direction of translation such as `en-de`."""
    task: str
    """Name of the measured task, empty for measures that are taken once per language."""
    value: float | None


def pair_retrieval(
    model: nn.Module, tokens: "SampleTokenizer", pairs: "Sequence[Pair]", layers: Sequence[int]
) -> list[float]:
    """Return the retrieval accuracy among translations of `pairs`, for each of `layers`.

    It is computed as in `midalign eval`: cosine of centred means, both directions. Every translation that
    occurs in a pair counts as right.
    """
    sides = []
    for side in ([pair.foreign for pair in pairs], [pair.english for pair in pairs]):
        ids = [tokens.sentence(sentence) for sentence in side]
        sides.append(pooled_sentences(model, ids, layers, tokens.tokenizer.pad_token_id, tokens.sink))
    right = translation_matrix([(pair.foreign, pair.english) for pair in pairs])
    return [pair_accuracy(foreign, english, right) for foreign, english in zip(*sides, strict=True)]


def gradient_cosine(
    first: Sequence[torch.Tensor | None], second: Sequence[torch.Tensor | None]
) -> float | None:
    """Return the cosine of two gradients over the parameters that both reach, None if there are none.

    A loss does not reach all parameters, such as those above the aligned layer. Their gradient is None, or
    zero after summing over processes.
    """
    pairs = [
        (a.double(), b.double())
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None and a.any() and b.any()
    ]
    product = sum(float((a * b).sum()) for a, b in pairs)
    norms = [math.sqrt(sum(float(pair[side].square().sum()) for pair in pairs)) for side in (0, 1)]
    return product / (norms[0] * norms[1]) if pairs else None


def measure_direction(measure: str) -> bool:
    """Return whether higher values of a measure, such as `off_target/aligned`, are better.

    Raises RecipeError for unknown measures, and for measures without a better direction.
    """
    name = measure.partition("/")[0]
    known = {**HIGHER_IS_BETTER, **metrics.metric_directions()}
    if name not in known:
        raise RecipeError(
            f"monitor.stop_on: no measure {measure!r}.{nearest(name, known)} There are {', '.join(known)}"
        )
    direction = known[name]
    if direction is None:
        raise RecipeError(
            f"monitor.stop_on: neither high nor low values of {name} are better, so no update is best by it. "
            f"Choose another measure, such as task_loss/supervised"
        )
    return direction


def best_update(
    measures: Sequence[tuple[int, Mapping[str, float | None]]], name: str
) -> tuple[int, int] | None:
    """Return the best update by a measure, and the number of measurements after it.

    Measurements without a value are skipped. None if no measurement has one.
    """
    sign = 1 if measure_direction(name) else -1
    values = [
        (update, sign * value) for update, by_name in measures if (value := by_name.get(name)) is not None
    ]
    if not values:
        return None
    best = max(range(len(values)), key=lambda i: values[i][1])
    return values[best][0], len(values) - 1 - best


def name_measures(measured: Sequence[MeasuredValue], roles: record.Roles) -> Measures:
    """Return values by `<measure>/<language>` and `<measure>/<role>`.

    Both are means over tasks, as on the leaderboard. If a language has several tasks, such as two treebanks,
    their values are added as `<measure>/<task>`. A mean is None if one of its values is None.
    """
    parts: dict[str, list[float | None]] = {}
    for entry in measured:
        for group in (entry.language, roles.of(entry.language)):
            parts.setdefault(f"{entry.measure}/{group}", []).append(entry.value)
    by_task = {
        f"{entry.measure}/{entry.task}": entry.value
        for entry in measured
        if len(parts[f"{entry.measure}/{entry.language}"]) > 1
    }
    return by_task | {name: _mean(values) for name, values in parts.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def read_measured_values(results: Path, adapter: str) -> list[MeasuredValue]:
    """Return the metrics of all tasks from the adapter's record in `results`."""
    records = [json.loads(path.read_text("utf-8")) for path in results.glob(f"*{record.SUFFIX}")]
    (scored,) = [entry for entry in records if entry["adapter"] and entry["adapter"]["name"] == adapter]
    return [
        MeasuredValue(metric, task["language"], name, score["value"])
        for name, task in scored["tasks"].items()
        for metric, score in task["metrics"].items()
    ]
