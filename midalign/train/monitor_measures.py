"""Measures of a model in training: retrieval, scores of generated answers, and the best update by them."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from midalign import metrics, record
from midalign.align.retrieval import accuracy, translations
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
"""Direction of what is measured without generating, None where neither end is better."""


class Measurement(NamedTuple):
    """One measured value."""

    measure: str
    language: str
    """Or a direction, such as `en-de`."""
    task: str
    """The measured task's name; empty for what is measured once per language."""
    value: float | None


def pair_retrieval(
    model: nn.Module, tokens: "SampleTokenizer", pairs: "Sequence[Pair]", layers: Sequence[int]
) -> list[float]:
    """Return the share of sentences that find a translation among those of `pairs`, after each layer.

    It is measured as in `midalign eval`: centred means, cosine, both directions. Every translation that some
    pair has counts as right.
    """
    sides = []
    for side in ([pair.foreign for pair in pairs], [pair.english for pair in pairs]):
        ids = [tokens.sentence(sentence) for sentence in side]
        sides.append(pooled_sentences(model, ids, layers, tokens.tokenizer.pad_token_id, tokens.sink))
    right = translations([(pair.foreign, pair.english) for pair in pairs])
    return [accuracy(foreign, english, right) for foreign, english in zip(*sides, strict=True)]


def gradient_cosine(one: Sequence[torch.Tensor | None], other: Sequence[torch.Tensor | None]) -> float | None:
    """Return the cosine of two gradients over the parameters that both change, None if there are none.

    Parameters that one loss does not reach, as those above the aligned layer, have no gradient, or zeros
    where processes have added theirs up.
    """
    pairs = [
        (a.double(), b.double())
        for a, b in zip(one, other, strict=True)
        if a is not None and b is not None and a.any() and b.any()
    ]
    product = sum(float((a * b).sum()) for a, b in pairs)
    norms = [math.sqrt(sum(float(pair[side].square().sum()) for pair in pairs)) for side in (0, 1)]
    return product / (norms[0] * norms[1]) if pairs else None


def measure_direction(measure: str) -> bool:
    """Return the direction of a measure, such as `off_target/aligned`.

    Raises RecipeError for measures that do not exist, and for those of which neither end is better.
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
            f"monitor.stop_on: {name} has no better end, so no update is best by it. "
            f"Choose another measure, such as task_loss/supervised"
        )
    return direction


def best_update(
    measures: Sequence[tuple[int, Mapping[str, float | None]]], name: str
) -> tuple[int, int] | None:
    """Return the update that was best by a measure, and how many measurements have passed since.

    Measurements without a value are left out; None if all are.
    """
    sign = 1 if measure_direction(name) else -1
    values = [(update, sign * value) for update, found in measures if (value := found.get(name)) is not None]
    if not values:
        return None
    best = max(range(len(values)), key=lambda i: values[i][1])
    return values[best][0], len(values) - 1 - best


def name_measures(figures: Sequence[Measurement], roles: record.Roles) -> Measures:
    """Return figures by `<measure>/<language>` and `<measure>/<role>`.

    A role's value is the mean over its tasks, as on the board. A language's is the mean over its tasks, such
    as two treebanks, each of which is then there as `<measure>/<task>` too. A mean is None if a part is.
    """
    parts: dict[str, list[float | None]] = {}
    for figure in figures:
        for group in (figure.language, roles.of(figure.language)):
            parts.setdefault(f"{figure.measure}/{group}", []).append(figure.value)
    found = {
        f"{figure.measure}/{figure.task}": figure.value
        for figure in figures
        if len(parts[f"{figure.measure}/{figure.language}"]) > 1
    }
    return found | {name: _mean(values) for name, values in parts.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def read_measurements(results: Path, adapter: str) -> list[Measurement]:
    """Return every metric of every task in an adapter's record."""
    records = [json.loads(path.read_text("utf-8")) for path in results.glob(f"*{record.SUFFIX}")]
    (own,) = [one for one in records if one["adapter"] and one["adapter"]["name"] == adapter]
    return [
        Measurement(metric, task["language"], name, score["value"])
        for name, task in own["tasks"].items()
        for metric, score in task["metrics"].items()
    ]
