"""Translation for lm-eval: the segments of a direction, and the score of one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from midalign.data import own
from midalign.data.overlap import SplitText
from midalign.data.registry import translation_data
from midalign.data.segments import sides
from midalign.errors import TaskError
from midalign.families.aggregation import ItemScore, aggregations_by_name, item_scores
from midalign.families.shots import TaskSplits
from midalign.languages import language
from midalign.metrics.identify import wanted
from midalign.metrics.translation import METRICS, count_translation, tokenizer
from midalign.metrics.translation import signatures as sacrebleu_signatures

if TYPE_CHECKING:
    from midalign.data.segments import TranslatedSegment

SHOTS = 16
"""Size of the few-shot pool: the first segments of the data set's SHOT_SPLIT. Directions without that split
have no examples, nor have those that would take them from ALMA before it is downloaded."""

LONGEST = 20_000
"""Number of characters of an answer that are scored. It is above every task's limit, and within MeCab's."""


def dataset(*, source: str, language: str, **_: Any) -> TaskSplits:
    """Return the splits of a task for lm-eval. `language` is a direction such as en-de."""
    return TaskSplits(partial(_translation_documents, source, language))


def _translation_documents(source: str, direction: str, split: str) -> list[dict[str, Any]]:
    segments = _shots(source, direction) if split == "shots" else _segments(source, direction, split)
    return [translation_document(segment, direction) for segment in segments]


def _segments(source: str, direction: str, split: str) -> "list[TranslatedSegment]":
    return translation_data(_origin(source, direction, split)).read(direction, split)


def _shots(source: str, direction: str) -> "list[TranslatedSegment]":
    """Return the pool of few-shot examples.

    lm-eval reads it for prompts without examples too, so ALMA is not downloaded for it.
    """
    from midalign.data import alma

    split = translation_data(source).SHOT_SPLIT
    if split not in direction_splits(source, direction):
        return []
    if _origin(source, direction, split) == "alma" and not alma.present(direction, split):
        return []
    return _segments(source, direction, split)[:SHOTS]


def direction_splits(source: str, direction: str) -> list[str]:
    """Return those of train, validation and test that a direction has, from the data set or from ALMA."""
    splits = translation_data(source).splits(direction)
    if own.is_own(source):
        return splits
    every = ("train", "validation", "test")
    alma_splits = translation_data("alma").splits(direction)
    return [split for split in every if split in splits or split in alma_splits]


def _origin(source: str, direction: str, split: str) -> str:
    """Return the data set that a split comes from: ALMA if the source lacks it."""
    if own.is_own(source) or split in translation_data(source).splits(direction):
        return source
    return "alma"


def metrics(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metrics of a direction: without BLEU if its tokenizer is not available.

    Without a language in `metadata`, return all metrics.
    """
    return _metrics(sides(metadata["language"])[1]) if "language" in metadata else METRICS


def _metrics(target: str) -> Mapping[str, Any]:
    has_bleu = _tokenizer(target) is not None
    return {name: metric for name, metric in METRICS.items() if has_bleu or name != "bleu"}


def _tokenizer(target: str) -> str | None:
    """Return sacreBLEU's tokenizer for a target language."""
    return tokenizer(target, language(target).script)


def signatures(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return sacreBLEU's signatures of a direction's scores by metric.

    `ref` names the reference of a data set that has several of the direction.
    """
    from midalign.data import wmt23

    direction = metadata["language"]
    by_metric = sacrebleu_signatures(_tokenizer(sides(direction)[1]))
    reference = wmt23.named_reference(direction) if metadata["source"] == "wmt23" else None
    if reference is None:
        return dict(by_metric)
    return {metric: f"{signature}|ref:{reference}" for metric, signature in by_metric.items()}


def input_field(metadata: Mapping[str, Any]) -> None:
    """Return None: a prompt names the language of its source."""


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set's digest of a split of a task."""
    return translation_data(origin(metadata, split)).digest(metadata["language"], split)


def origin(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set of a split of a task: ALMA for the training split of WMT23 and NTREX."""
    return _origin(metadata["source"], metadata["language"], split)


def texts(metadata: Mapping[str, Any], split: str) -> list[SplitText]:
    """Return sources and targets of a split."""
    source_language, target_language = sides(metadata["language"])
    segments = _segments(metadata["source"], metadata["language"], split)
    dataset = origin(metadata, split)
    return [
        SplitText(dataset, split, source_language, [segment.source for segment in segments]),
        SplitText(dataset, split, target_language, [segment.target for segment in segments]),
    ]


def translation_document(segment: "TranslatedSegment", direction: str) -> dict[str, Any]:
    """Return one document, with everything that a prompt or a score needs."""
    source_language, target_language = sides(direction)
    return {
        "id": segment.id,
        "target_language": target_language,
        "source_name": language(source_language).name,
        "target_name": language(target_language).name,
        "source": segment.source,
        "target": segment.target,
    }


def answer(output: str) -> str:
    """Return an output's first line, which is scored. Engines stop there, other programs may go on."""
    return output.strip().partition("\n")[0][:LONGEST].strip()


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """Return metrics.translation.COLUMNS of an output."""
    target = language(doc["target_language"])
    tokenize = _tokenizer(target.code)
    expected = wanted(target.code, target.script, target.identifier)
    return count_translation(doc["source"], doc["target"], answer(output), tokenize, expected)


def constraint(doc: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Raise TaskError: any text may be a translation."""
    raise TaskError(
        "Translation has no constrained regime: any text may be a translation. Omit --constrained "
        "(constrained=True), or the translation tasks"
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, ItemScore]:
    """Return the segment's value of each metric of its direction, which lm-eval logs and aggregates."""
    return item_scores("translation", counts(doc, results[0]), _metrics(doc["target_language"]))


if not TYPE_CHECKING:  # with it, type checkers would accept any attribute
    __getattr__ = aggregations_by_name(METRICS)
