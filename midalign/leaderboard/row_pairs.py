"""Select the two sides of a comparison: records, folders of records of several seeds, or arms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from midalign.errors import RecordError, nearest
from midalign.leaderboard.load import Run, load_runs, runs_of_file
from midalign.leaderboard.sections import BoardRow, BoardSection, decoding_settings, group_runs


@dataclass(frozen=True)
class RowPair:
    """Two rows on the same items."""

    first: str
    second: str
    section: BoardSection
    """Its two rows are the sides, reduced to the languages whose items both have. Bases may differ."""
    left_out: list[str]
    """Languages that one side lacks or has other items of."""
    other_conditions: list[str]
    """Conditions of the two sides that differ, in words."""


def select_pairs(first: str, second: str, results: Path) -> list[RowPair]:
    """Return the pairs of rows that two names stand for, one per group of tasks, base and sample.

    Args:
        first: a record, a folder of records of one arm, or the name of an arm in `results`.
        second: what it is compared with.
        results: folder of records, for names of arms.

    Raises RecordError for a name without records, a folder of several arms, and sides without common items.
    """
    both = [_candidates(name, results) for name in (first, second)]
    sides = [
        _unambiguous(name, side, other)
        for name, side, other in zip((first, second), both, reversed(both), strict=True)
    ]
    names = (_shown(first), _shown(second)) if _shown(first) != _shown(second) else (first, second)
    pairs: dict[tuple[tuple[str, ...], tuple[str, ...]], RowPair] = {}
    for (section, row), (other_section, other) in product(*sides):
        if section.group == other_section.group:
            # The base is a row of several sections: the same records make one pair.
            files = tuple(tuple(f"{section.group} {run.file}" for run in side.runs) for side in (row, other))
            for pair in pair_rows(names, section, row, other):
                pairs.setdefault((files[0], files[1]), pair)
    if not pairs:
        raise RecordError(
            f"{first} and {second} have no items in common. "
            f"{first}: {_items(sides[0])}. {second}: {_items(sides[1])}"
        )
    # An arm may have rows on several bases, and by several engines: compare each with the one nearest to it.
    return [
        pair
        for files, pair in pairs.items()
        if all(
            len(pair.other_conditions) <= len(rival.other_conditions)
            for others, rival in pairs.items()
            if files[0] == others[0] or files[1] == others[1]
        )
    ]


def _candidates(name: str, results: Path) -> list[tuple[BoardSection, BoardRow]]:
    """Return the rows that a name stands for, each with its section."""
    path = Path(name)
    if path.is_dir():
        rows = _rows(group_runs(load_runs(path)))
        for group in sorted({section.group for section, _ in rows}):
            labels = sorted({row.label for section, row in rows if section.group == group})
            if len(labels) > 1:
                raise RecordError(
                    f"{name} has records of {len(labels)} arms: {', '.join(labels)}. Name two of them: "
                    f"midalign compare '{labels[0]}' '{labels[-1]}' --results '{name}'"
                )
        return rows
    if path.suffix == ".json":
        return _rows(group_runs(list(runs_of_file(path, path.name))))
    sections = group_runs(load_runs(results))
    labels = sorted({row.label for _, row in _rows(sections)})
    chosen = [(section, row) for section, row in _rows(sections) if name in (row.label, row.arm)]
    if not chosen:
        raise RecordError(
            f"{name} is not a record, a folder or an arm of {results}.{nearest(name, labels)} "
            f"Arms: {', '.join(labels)}. Choose another folder of records with --results"
        )
    return chosen


def _unambiguous(
    name: str, side: list[tuple[BoardSection, BoardRow]], other: list[tuple[BoardSection, BoardRow]]
) -> list[tuple[BoardSection, BoardRow]]:
    """Return a side without the arms of recipes that the other side lacks, where a name stands for several.

    Raises RecordError if it still stands for several arms of a task that the other side has.
    """
    recipes = {_recipe_of(row) for _, row in other}
    shared = {section.group for section, _ in other}
    kept = []
    for group in dict.fromkeys(section.group for section, _ in side):
        rows = [(section, row) for section, row in side if section.group == group]
        if len({row.label for _, row in rows}) > 1:
            rows = [(section, row) for section, row in rows if _recipe_of(row) in recipes] or rows
        labels = sorted({row.label for _, row in rows})
        if len(labels) > 1 and group in shared:
            raise RecordError(
                f"{name} stands for {len(labels)} arms of {group}. Name one of: {', '.join(labels)}"
            )
        kept += rows
    return kept


def _recipe_of(row: BoardRow) -> str | None:
    recipe = row.runs[0].record.recipe
    return recipe.name if recipe else None


def _rows(sections: list[BoardSection]) -> list[tuple[BoardSection, BoardRow]]:
    return [(section, row) for section in sections for row in section.rows]


def _shown(name: str) -> str:
    """Return the last part of a path, without the ending of records."""
    return Path(name).name.removesuffix(".json") or name


def _items(side: list[tuple[BoardSection, BoardRow]]) -> str:
    """Return the tasks and samples of a side in words."""
    samples = {(section.group, section.first.record.sample) for section, _ in side}
    return "; ".join(
        sorted(
            f"{group}, {sample.split} split, {sample.limit or 'all'} items per language"
            for group, sample in samples
        )
    )


def pair_rows(
    names: tuple[str, str], section: BoardSection, row: BoardRow, other: BoardRow
) -> Iterator[RowPair]:
    """Yield the pair of two rows, reduced to the languages whose items they share, if there are any."""
    runs = [*row.runs, *other.runs]
    codes = sorted(set.union(*(set(run.languages) for run in runs)))
    if shared := shared_languages(runs):
        rows = tuple(
            # A record's file is its name among the scores: two folders may have the same one.
            replace(side, runs=tuple(reduce_run(run, shared, f"{place}/{run.file}") for run in side.runs))
            for place, side in enumerate((row, other))
        )
        yield RowPair(
            *names,
            replace(section, rows=rows),
            [code for code in codes if code not in shared],
            differing_conditions([row.runs[0], other.runs[0]], shared),
        )


def shared_languages(runs: Sequence[Run]) -> list[str]:
    """Return the languages whose items all runs share, sorted."""
    common = sorted(set.intersection(*(set(run.languages) for run in runs)))
    return [code for code in common if len({_item_conditions(run, code) for run in runs}) == 1]


def _item_conditions(run: Run, code: str) -> tuple[str, ...]:
    """Return what two runs share if they have the same items of a language."""
    task = run.task(code)
    return run.ids[code], task.data_digest, str(task.version), str(sorted(task.signatures.items()))


def reduce_run(run: Run, codes: Sequence[str], file: str) -> Run:
    """Return a run with some of its languages, under another name of its file."""
    return replace(run, file=file, counts={code: run.counts[code] for code in codes})


def differing_conditions(runs: Sequence[Run], codes: Sequence[str]) -> list[str]:
    """Return the conditions in which runs differ, in words. `codes` are languages that all of them have."""
    conditions = [_conditions(run, codes) for run in runs]
    return [name for name in conditions[0] if any(other[name] != conditions[0][name] for other in conditions)]


def _conditions(run: Run, codes: Sequence[str]) -> dict[str, Any]:
    entry, tasks = run.record, [run.task(code) for code in codes]
    return {
        "base": (entry.base.name, entry.base.digest),
        "prompts": [task.prompt_digest for task in tasks],
        "token limit of an answer": [task.max_gen_toks for task in tasks],
        "engine": entry.engine.name,
        "dtype": entry.engine.dtype,
        "decoding": decoding_settings(run),
    }
