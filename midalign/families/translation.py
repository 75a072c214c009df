"""Translation for lm-eval: the segments of a direction, and the score of one."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from midalign.data.overlap import Text
from midalign.data.segments import sides
from midalign.families.aggregation import by_name, under_every_name
from midalign.languages import language
from midalign.metrics.translation import METRICS, count, tokenizer

if TYPE_CHECKING:
    import datasets

    from midalign.data.segments import Segment

SHOTS = 16
"""Size of the few-shot pool: the first segments of the training split."""


class Splits(dict[str, "datasets.Dataset"]):
    """Splits of one direction, each read when it is first asked for: train, validation, test, and shots."""

    def __init__(self, source: str, direction: str) -> None:
        self.source, self.direction = source, direction

    def __missing__(self, split: str) -> "datasets.Dataset":
        import datasets

        segments = self._segments("train")[:SHOTS] if split == "shots" else self._segments(split)
        self[split] = datasets.Dataset.from_list([document(one, self.direction) for one in segments])
        return self[split]

    def _segments(self, split: str) -> "list[Segment]":
        found: list[Segment] = _source(self.source, split).read(self.direction, split)
        return found


def _source(name: str, split: str) -> Any:
    """The module that has the split: what is a test set and no more is trained for on ALMA's pairs."""
    from midalign.data import alma, mini, ntrex, wmt23

    if name in ("wmt23", "ntrex") and split != "test":
        return alma
    return {"wmt23": wmt23, "ntrex": ntrex, "mini": mini}[name]


def dataset(*, source: str, language: str, **_: Any) -> Splits:
    """What lm-eval calls with a task's metadata; `language` is a direction such as en-de."""
    return Splits(source, language)


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """The data set's own digest of a split of a task."""
    return str(_source(metadata["source"], split).digest(metadata["language"], split))


def origin(metadata: Mapping[str, Any], split: str) -> str:
    """The data set that a split of a task comes from: ALMA for the training split of WMT23 and NTREX."""
    return str(_source(metadata["source"], split).__name__.rpartition(".")[2])


def texts(metadata: Mapping[str, Any], split: str) -> list[Text]:
    """Sources and targets of a split."""
    before, after = sides(metadata["language"])
    segments = _source(metadata["source"], split).read(metadata["language"], split)
    dataset = origin(metadata, split)
    return [
        Text(dataset, split, before, [segment.source for segment in segments]),
        Text(dataset, split, after, [segment.target for segment in segments]),
    ]


def document(segment: "Segment", direction: str) -> dict[str, Any]:
    """One document: all that a prompt or a score needs."""
    before, after = sides(direction)
    return {
        "id": segment.id,
        "target_language": after,
        "source_name": language(before).name,
        "target_name": language(after).name,
        "source": segment.source,
        "target": segment.target,
    }


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """metrics.translation.COLUMNS of an output's first line: engines stop there, others may not."""
    target = language(doc["target_language"])
    line = output.strip().partition("\n")[0]
    return count(doc["source"], doc["target"], line, tokenizer(target.code, target.script), target.identifier)


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, list[int]]:
    """What lm-eval aggregates: the segment's counts under every metric's name."""
    return under_every_name(counts(doc, results[0]), METRICS)


globals().update(by_name(METRICS))  # lm-eval finds an aggregation by its name in this module
