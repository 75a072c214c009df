"""Translation for lm-eval: the segments of a direction, and the score of one."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from midalign.data import own
from midalign.data.overlap import Text
from midalign.data.segments import sides
from midalign.errors import TaskError
from midalign.families.aggregation import ItemScore, by_name, item_scores
from midalign.families.shots import with_pool
from midalign.languages import language
from midalign.metrics.identify import wanted
from midalign.metrics.translation import METRICS, count, tokenizer
from midalign.metrics.translation import signatures as sacrebleu_signatures

if TYPE_CHECKING:
    import datasets

    from midalign.data.segments import Segment

SHOTS = 16
"""Size of the few-shot pool: the first segments of the training split, of FLORES the validation split, which
all its directions have. Directions without either have no shots, nor has any while ALMA is not here."""

LONGEST = 20_000
"""Characters of an answer that are scored: a task's limit lets no more through, MeCab takes no megabyte."""

OWN = {
    "wmt23": ("test",),
    "ntrex": ("test",),
    "flores": ("validation", "test"),
    "mini": ("train", "validation", "test"),
}
"""The splits that a data set has itself; the others are ALMA's, where it has the direction."""


class Splits(dict[str, "datasets.Dataset"]):
    """Splits of one direction, each read when it is first asked for: train, validation, test, and shots."""

    def __init__(self, source: str, direction: str) -> None:
        self.source, self.direction = source, direction

    def __missing__(self, split: str) -> "datasets.Dataset":
        import datasets

        segments = self._shots() if split == "shots" else self._segments(split)
        documents = datasets.Dataset.from_list([document(one, self.direction) for one in segments])
        self[split] = with_pool(documents, partial(self.__getitem__, "shots"))
        return self[split]

    def _segments(self, split: str) -> "list[Segment]":
        found: list[Segment] = _source(self.source, split).read(self.direction, split)
        return found

    def _shots(self) -> "list[Segment]":
        """Return the pool of few-shot examples.

        lm-eval reads it for prompts without examples too, so ALMA is not downloaded then.
        """
        from midalign.data import alma

        pool = "validation" if self.source == "flores" else "train"
        if pool not in splits(self.source, self.direction):
            return []
        if _source(self.source, pool) is alma and not alma.present(self.direction, pool):
            return []
        return self._segments(pool)[:SHOTS]


def splits(source: str, direction: str) -> list[str]:
    """Return the splits (train, validation, test) that a direction has."""
    from midalign.data import alma

    if own.is_own(source):
        return own.Source(source).splits(direction)
    every = ("train", "validation", "test")
    return [one for one in every if one in OWN[source] or one in alma.splits(direction)]


def _source(name: str, split: str) -> Any:
    """Return the module or user's file that has the split.

    For data sets that are only test sets, ALMA's pairs are the training split.
    """
    from midalign.data import alma, flores, mini, ntrex, wmt23

    if own.is_own(name):
        return own.Source(name)
    modules = {"wmt23": wmt23, "ntrex": ntrex, "flores": flores, "mini": mini}
    return modules[name] if split in OWN[name] else alma


def dataset(*, source: str, language: str, **_: Any) -> Splits:
    """Return the splits of a task for lm-eval. `language` is a direction such as en-de."""
    return Splits(source, language)


def metrics(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metrics of a direction: all but BLEU where its tokenizer is not available.

    Without a language in `metadata`, return what directions can have.
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
    found = sacrebleu_signatures(_tokenizer(sides(direction)[1]))
    reference = wmt23.named_reference(direction) if metadata["source"] == "wmt23" else None
    return {metric: f"{one}|ref:{reference}" for metric, one in found.items()} if reference else dict(found)


def input_field(metadata: Mapping[str, Any]) -> None:
    """Return None: a prompt names the language of its source."""


def data_digest(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set's digest of a split of a task."""
    return str(_source(metadata["source"], split).digest(metadata["language"], split))


def origin(metadata: Mapping[str, Any], split: str) -> str:
    """Return the data set of a split of a task: ALMA for the training split of WMT23 and NTREX."""
    source: str = metadata["source"]
    return source if own.is_own(source) or split in OWN[source] else "alma"


def texts(metadata: Mapping[str, Any], split: str) -> list[Text]:
    """Return sources and targets of a split."""
    before, after = sides(metadata["language"])
    segments = _source(metadata["source"], split).read(metadata["language"], split)
    dataset = origin(metadata, split)
    return [
        Text(dataset, split, before, [segment.source for segment in segments]),
        Text(dataset, split, after, [segment.target for segment in segments]),
    ]


def document(segment: "Segment", direction: str) -> dict[str, Any]:
    """Return one document, with everything that a prompt or a score needs."""
    before, after = sides(direction)
    return {
        "id": segment.id,
        "target_language": after,
        "source_name": language(before).name,
        "target_name": language(after).name,
        "source": segment.source,
        "target": segment.target,
    }


def answer(output: str) -> str:
    """Return an output's first line, which is scored. Engines stop there, other programs may not."""
    return output.strip().partition("\n")[0][:LONGEST].strip()


def counts(doc: Mapping[str, Any], output: str) -> list[int]:
    """Return metrics.translation.COLUMNS of an output."""
    target = language(doc["target_language"])
    tokenize = _tokenizer(target.code)
    expected = wanted(target.code, target.script, target.identifier)
    return count(doc["source"], doc["target"], answer(output), tokenize, expected)


def constraint(doc: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Raise TaskError: any text may be a translation."""
    raise TaskError(
        "Translation has no constrained regime: any text may be a translation. Leave out --constrained "
        "(constrained=True), or the translation tasks"
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, ItemScore]:
    """Return what lm-eval logs and aggregates: the segment's value of every metric that its target has."""
    return item_scores("translation", counts(doc, results[0]), _metrics(doc["target_language"]))


globals().update(by_name(METRICS))  # lm-eval finds an aggregation by its name in this module
