"""Rank the models of different bases on the items that they share."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

from midalign.languages import ROLES
from midalign.leaderboard.compare import MOST_PAIRED_ROWS, seed_change
from midalign.leaderboard.row_pairs import differing_conditions, reduce_run, shared_languages
from midalign.leaderboard.sections import BoardRow, BoardSection, resource_of
from midalign.leaderboard.statistics import (
    Estimate,
    Scores,
    SeedScores,
    bootstrap,
    estimate,
    mean_of_seeds,
    mean_over_languages,
    unpaired_difference,
)
from midalign.metrics.description import MetricDescription


@dataclass(frozen=True)
class RankedModel:
    """A row of a section among those of other bases. Keys are languages and names of `BasesOverview.sets`."""

    base: str
    label: str
    """Base and the row's label."""
    seeds: list[int | None]
    engine: str
    dtype: str
    scores: dict[str, Estimate]
    """The headline metric, a mean over languages and seeds."""
    ranks: dict[str, tuple[int, int]]
    """Highest and lowest rank. Empty for more than MOST_PAIRED_ROWS models.

    One plus the number of models that are shown to be better, and the number of models minus those that are
    shown to be worse. Shown means that the 95% interval of the difference does not contain 0.
    """


@dataclass(frozen=True)
class BasesOverview:
    """Models of several bases on the same items."""

    section: BoardSection
    """Their rows, reduced to the shared languages."""
    sets: dict[str, list[str]]
    """Set -> languages: all, the roles on which all trained models agree, and resource classes."""
    missing: list[str]
    """Languages that a model lacks or has other items of."""
    differing: list[str]
    """Conditions that are not equal for all models, in words."""
    models: list[RankedModel]
    """Models by their mean over all languages, highest first."""


class _HeadlineSection(BoardSection):
    """A section of which only the headline metric is wanted."""

    @cached_property
    def metrics(self) -> dict[str, MetricDescription]:
        """The headline."""
        return {self.scorer.HEADLINE: self.scorer.METRICS[self.scorer.HEADLINE]}


def rank_across_bases(sections: Sequence[BoardSection]) -> list[BasesOverview]:
    """Return an overview per group of tasks, sample and wording that models of several bases have."""
    samples: dict[tuple[str, ...], list[BoardSection]] = defaultdict(list)
    for section in sections:
        versions = sorted({section.first.task(code).version for code in section.languages})
        sample = section.first.record.sample
        samples[section.group, str(sample), str(versions), str(section.wording)].append(section)
    return [overview for members in samples.values() for overview in _overview(members)]


def _overview(sections: Sequence[BoardSection]) -> Iterator[BasesOverview]:
    """Yield the overview of sections with the same tasks and sample, if they have several bases."""
    # 1. The base is a row of several sections: it counts once.
    placed = {
        tuple(run.file for run in row.runs): (section, row) for section in sections for row in section.rows
    }
    runs = [run for _, row in placed.values() for run in row.runs]
    shared = shared_languages(runs)
    if len({_base(row) for _, row in placed.values()}) < 2 or not shared:
        return
    # 2. The rows in one section, with labels that distinguish them.
    labels = _labels([row for _, row in placed.values()])
    rows = tuple(
        replace(row, label=label, runs=tuple(reduce_run(run, shared, run.file) for run in row.runs))
        for label, (_, row) in zip(labels, placed.values(), strict=True)
    )
    whole = _HeadlineSection(sections[0].group, (), (), rows)
    trained = [section for section, row in placed.values() if row.arm != "base"]
    sets = _language_sets(shared, trained)
    # 3. Scores and ranks on draws that all rows share.
    scores = bootstrap(whole)
    places = {name: [shared.index(code) for code in codes] for name, codes in sets.items()}
    places |= {code: [place] for place, code in enumerate(shared)}
    ranks = _ranks(rows, scores, places) if len(rows) <= MOST_PAIRED_ROWS else {}
    models = [
        RankedModel(
            base=row.runs[0].record.base.name,
            label=row.label,
            seeds=[run.record.seed for run in row.runs],
            engine=row.engine[0],
            dtype=row.engine[1],
            scores={
                name: estimate(mean_over_languages(mean_of_seeds(_of_row(row, scores)), members, 0))
                for name, members in places.items()
            },
            ranks=ranks.get(row.label, {}),
        )
        for row in rows
    ]
    models.sort(key=lambda model: -model.scores["all"].value)
    evaluated = {code for run in runs for code in run.languages}
    missing = sorted(evaluated - set(shared))
    yield BasesOverview(whole, sets, missing, differing_conditions(runs, shared), models)


def _base(row: BoardRow) -> tuple[str, str]:
    base = row.runs[0].record.base
    return base.name, base.digest or ""


def _of_row(row: BoardRow, scores: Mapping[str, Scores]) -> list[Scores]:
    return [scores[run.file] for run in row.runs]


def _labels(rows: Sequence[BoardRow]) -> list[str]:
    """Return base and label of each row, with the base's digest, the recipe or the record where needed."""
    digests: dict[str, set[str]] = defaultdict(set)
    for name, digest in map(_base, rows):
        digests[name].add(digest)
    labels = []
    for row in rows:
        name, digest = _base(row)
        labels.append(
            f"{name} {digest[:7]}: {row.label}" if len(digests[name]) > 1 else f"{name}: {row.label}"
        )
    for more in (_recipe_name, lambda row: row.runs[0].record.name):
        counts = Counter(labels)
        labels = [
            f"{label} ({more(row)})" if counts[label] > 1 else label
            for label, row in zip(labels, rows, strict=True)
        ]
    return labels


def _recipe_name(row: BoardRow) -> str:
    recipe = row.runs[0].record.recipe
    return recipe.name if recipe else "no recipe"


def _language_sets(codes: Sequence[str], trained: Sequence[BoardSection]) -> dict[str, list[str]]:
    """Return the sets of languages, none empty. A role has the languages that all trained rows give it."""
    sets = {"all": list(codes)}
    for role in ROLES:
        sets[role] = [code for code in codes if {section.role(code) for section in trained} == {role}]
    for resource in ("high", "mid", "low"):
        sets[resource] = [code for code in codes if resource_of(code) == resource]
    return {name: members for name, members in sets.items() if members}


def _ranks(
    rows: Sequence[BoardRow], scores: Mapping[str, Scores], places: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, tuple[int, int]]]:
    """Return label -> set or language -> highest and lowest rank."""
    better = {row.label: dict.fromkeys(places, 0) for row in rows}
    worse = {row.label: dict.fromkeys(places, 0) for row in rows}
    for row, other in combinations(rows, 2):
        difference = _row_change(row, other, scores)
        for name, members in places.items():
            change = estimate(mean_over_languages(difference, members, 0))
            if change.low > 0 or change.high < 0:
                first, second = (row, other) if change.low > 0 else (other, row)
                better[second.label][name] += 1
                worse[first.label][name] += 1
    return {
        label: {name: (1 + better[label][name], len(rows) - worse[label][name]) for name in places}
        for label in better
    }


def _row_change(row: BoardRow, other: BoardRow, scores: Mapping[str, Scores]) -> SeedScores:
    """Return a row's scores minus another's. Seeds are paired within a base."""
    if _base(row) == _base(other):
        return seed_change(row, other, scores)[0]
    return unpaired_difference(_of_row(row, scores), _of_row(other, scores))
