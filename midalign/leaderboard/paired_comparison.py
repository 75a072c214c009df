"""Compare two arms, records or folders of seeds: paired differences with intervals and two tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Literal

import numpy as np

from midalign.errors import RecordError, nearest
from midalign.languages import ROLES
from midalign.leaderboard.compare import seed_change
from midalign.leaderboard.load import Run
from midalign.leaderboard.row_pairs import RowPair
from midalign.leaderboard.sections import BoardRow, BoardSection, language_sets
from midalign.leaderboard.statistics import (
    Estimate,
    TwoLevel,
    bootstrap,
    estimate,
    holm,
    mean_defined,
    mean_of_seeds,
    mean_over_languages,
    p_value,
)
from midalign.metrics.description import MetricDescription
from midalign.metrics.paired_tests import (
    randomization_p_value,
    sacrebleu_bootstrap,
    sacrebleu_randomization,
    swap_masks,
    swapped_differences,
)

Breakdown = Literal["language", "role", "class"]
EFFECT_SIZE = "Cohen's d_z"
ALL = "all"


@dataclass(frozen=True)
class SacrebleuTests:
    """P-values of sacreBLEU's paired tests of one pair of records in one direction."""

    seed: int | None
    bootstrap: float
    randomization: float


@dataclass(frozen=True)
class PairedRow:
    """The difference of two arms in one language, or its mean over several."""

    name: str
    """A language, a role, a resource class, or `all`."""
    languages: list[str]
    documents: int
    """Number of different documents. Parallel languages share theirs."""
    first: float
    second: float
    difference: Estimate
    p: float
    """Two-sided p-value of the bootstrap over documents and seeds."""
    p_holm: float
    """The same, adjusted for the number of rows. Of `all`, the p-value itself."""
    p_randomization: float
    """Two-sided p-value of approximate randomization over documents, with the seeds as they are."""
    effect_size: float
    """The difference over its standard deviation per document (Cohen's d_z). NaN if that is 0."""
    sacrebleu: list[SacrebleuTests]
    """One entry per pair of seeds, if asked for."""


@dataclass(frozen=True)
class PairedComparison:
    """Two arms on the same items."""

    first: str
    second: str
    section: BoardSection
    metric: str
    by: Breakdown
    seeds: list[int | None]
    """Seeds that both have. Empty if none: then all seeds of both count."""
    rows: list[PairedRow]
    """Rows of the breakdown, and the mean over all languages last."""
    left_out: list[str]
    other_conditions: list[str]

    @property
    def description(self) -> MetricDescription:
        """The metric."""
        return self.section.metrics[self.metric]


def compare_pairs(
    pairs: Sequence[RowPair], by: Breakdown, metric: str | None, sacrebleu: bool
) -> list[PairedComparison]:
    """Compare the pairs that have the metric, and of these only translation for sacreBLEU's tests.

    Raises RecordError as `compare_pair` does if no pair is left.
    """
    suitable = [
        pair
        for pair in pairs
        if (metric is None or metric in pair.section.metrics)
        and (not sacrebleu or pair.section.family == "translation")
    ]
    return [compare_pair(pair, by, metric, sacrebleu) for pair in suitable or pairs]


def compare_pair(
    pair: RowPair, by: Breakdown = "language", metric: str | None = None, sacrebleu: bool = False
) -> PairedComparison:
    """Compare two rows on one metric, the headline unless named.

    Raises RecordError for a metric that the records lack, and for sacreBLEU's tests of another metric than
    BLEU and chrF++.
    """
    section = pair.section
    metric = metric or section.scorer.HEADLINE
    if metric not in section.metrics:
        raise RecordError(
            f"{section.group} has no metric {metric!r} in these records.{nearest(metric, section.metrics)} "
            f"Metrics: {', '.join(section.metrics)}"
        )
    if sacrebleu and section.family != "translation":
        raise RecordError(
            f"sacreBLEU's tests are for translation, and {section.group} is not. Drop --sacrebleu"
        )
    if sacrebleu and metric not in ("bleu", "chrf"):
        raise RecordError(f"sacreBLEU's tests are for bleu and chrf, found {metric}. Name one with --metric")
    first, second = section.rows
    scores, column = bootstrap(section), list(section.metrics).index(metric)
    change, _ = seed_change(first, second, scores)
    seeds = [run.record.seed for run in first.runs if run.record.seed in _seeds(second)]
    sides = [
        mean_of_seeds([scores[run.file] for run in row.runs if not seeds or run.record.seed in seeds])
        for row in (first, second)
    ]
    swaps = _Swaps(section, metric)

    sets = _breakdown(section, by)
    places = {name: [section.languages.index(code) for code in codes] for name, codes in sets.items()}
    figures = {name: mean_over_languages(change, places[name], column) for name in places}
    p_values = {name: p_value(figure) for name, figure in figures.items()}
    adjusted = holm({name: p for name, p in p_values.items() if name != ALL})
    rows = []
    for name, codes in sets.items():
        documents = _number_of_documents(section, codes)
        rows.append(
            PairedRow(
                name=name,
                languages=codes,
                documents=documents,
                first=mean_over_languages(sides[0], places[name], column).value,
                second=mean_over_languages(sides[1], places[name], column).value,
                difference=estimate(figures[name]),
                p=p_values[name],
                p_holm=adjusted.get(name, p_values[name]),
                p_randomization=swaps.p_value(codes, figures[name].value),
                effect_size=_effect_size(figures[name], documents),
                sacrebleu=swaps.sacrebleu_tests(name) if sacrebleu and name in section.languages else [],
            )
        )
    return PairedComparison(
        pair.first, pair.second, section, metric, by, seeds, rows, pair.left_out, pair.other_conditions
    )


def _seeds(row: BoardRow) -> list[int | None]:
    return [run.record.seed for run in row.runs]


def _breakdown(section: BoardSection, by: Breakdown) -> dict[str, list[str]]:
    """Return the languages of each row of the table, the mean over all languages last."""
    sets = language_sets(section)
    if by == "language":
        ordered = [code for role in ROLES for code in sets.get(role, [])]
        chosen = {code: [code] for code in ordered}
    else:
        names = ROLES if by == "role" else ("high", "mid", "low")
        chosen = {name: sets[name] for name in names if name in sets}
    return {**chosen, ALL: sets[ALL]}


def _number_of_documents(section: BoardSection, codes: Sequence[str]) -> int:
    """Return the number of different documents. Languages with the same ids share theirs."""
    numbers = {section.first.ids[code]: len(section.first.counts[code]) for code in codes}
    return sum(numbers.values())


def _effect_size(figure: TwoLevel, documents: int) -> float:
    """Return Cohen's d_z: a difference over its standard deviation per document (Cohen 1988, chapter 2)."""
    deviation = figure.document_stderr * np.sqrt(documents)
    return float(figure.value / deviation) if deviation > 0 else float("nan")


class _Swaps:
    """Approximate randomization of a section's two rows: documents are swapped between them.

    A document is swapped for all seeds and all languages that have it, as it is drawn by the bootstrap.
    """

    def __init__(self, section: BoardSection, metric: str) -> None:
        self.section = section
        self.metric = section.metrics[metric]
        first, second = section.rows
        pairs = [(run, other) for run, other in product(first.runs, second.runs)]
        alike = [(run, other) for run, other in pairs if run.record.seed == other.record.seed]
        self.pairs = alike or pairs
        """Pairs of one seed, or all pairs of runs if the rows share no seed."""
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def p_value(self, codes: Sequence[str], observed: float) -> float:
        """Return the p-value of the mean difference over the languages, as a share."""
        # Languages with other documents are swapped independently of the first ones.
        streams = {
            ids: stream for stream, ids in enumerate(dict.fromkeys(map(self.section.first.ids.get, codes)))
        }
        swapped = [self._differences(code, streams[self.section.first.ids[code]]) for code in codes]
        return randomization_p_value(mean_defined(swapped, axis=0), observed)

    def _differences(self, code: str, stream: int) -> np.ndarray:
        """Return (trials,) mean differences over the pairs after swaps, as shares."""
        if (code, stream) not in self._known:
            masks = _masks(len(self.section.first.counts[code]), stream)
            unit = 100 if self.metric.percent else 1
            self._known[code, stream] = mean_defined(
                [
                    swapped_differences(*_counts(run, other, code), self.metric, masks) / unit
                    for run, other in self.pairs
                ],
                axis=0,
            )
        return self._known[code, stream]

    def sacrebleu_tests(self, code: str) -> list[SacrebleuTests]:
        """Return sacreBLEU's tests of each pair, the second row as its baseline."""
        return [
            SacrebleuTests(
                run.record.seed,
                sacrebleu_bootstrap(*_counts(other, run, code), self.metric),
                sacrebleu_randomization(*_counts(other, run, code), self.metric),
            )
            for run, other in self.pairs
        ]


@lru_cache(maxsize=4)
def _masks(items: int, stream: int) -> np.ndarray:
    return swap_masks(items, stream)


def _counts(run: Run, other: Run, code: str) -> tuple[np.ndarray, np.ndarray]:
    return run.counts[code].astype(np.int64), other.counts[code].astype(np.int64)
