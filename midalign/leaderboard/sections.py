"""Which records may stand in one table: sections of comparable runs, rows of seeds."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from midalign.errors import RecordError
from midalign.leaderboard.load import Run

Role = Literal["supervised", "aligned", "unseen"]
ROLES: tuple[Role, ...] = ("supervised", "aligned", "unseen")


@dataclass(frozen=True)
class Row:
    """The seeds of one recipe and arm, evaluated by one engine in one dtype."""

    label: str
    arm: str
    runs: tuple[Run, ...]
    """By seed."""

    @property
    def recipe(self) -> str | None:
        """Digest of the recipe, None for the base and for adapters trained elsewhere."""
        reference = self.runs[0].record.recipe
        return reference.digest if reference else None

    @property
    def engine(self) -> tuple[str, str]:
        """Engine and dtype."""
        return _engine(self.runs[0])


@dataclass(frozen=True)
class Section:
    """Runs on the same items, prompts and base, whose languages have the same roles."""

    group: str
    supervised: tuple[str, ...]
    aligned: tuple[str, ...]
    rows: tuple[Row, ...]
    """Base first, then each recipe's baseline and its other arms."""

    @property
    def first(self) -> Run:
        """Any of its runs, for what they have in common."""
        return self.rows[0].runs[0]

    @property
    def languages(self) -> list[str]:
        """Sorted codes of the languages that were evaluated."""
        return self.first.languages

    def role(self, language: str) -> Role:
        """What a language was in these runs; what is neither supervised nor aligned is unseen."""
        if language in self.supervised:
            return "supervised"
        return "aligned" if language in self.aligned else "unseen"


def sections(runs: Sequence[Run]) -> list[Section]:
    """The runs in comparable sections, sorted; raises RecordError for two records of one thing."""
    comparable = defaultdict(list)
    for run in runs:
        comparable[_conditions(run)].append(run)
    found = []
    for conditions in sorted(comparable):
        members = comparable[conditions]
        trained = defaultdict(list)
        for run in members:
            if run.record.arm != "base":
                trained[_roles(run)].append(run)
        bases = [run for run in members if run.record.arm == "base"]
        for roles in sorted(trained) or sorted({_roles(run) for run in bases}):
            own = [run for run in bases if _roles(run) == roles]
            # A base was trained on no role: where none was scored under these, any one does.
            any_base = list({_engine(run): run for run in bases}.values())
            found.append(Section(conditions[0], *roles, _rows([*(own or any_base), *trained[roles]])))
    return found


def _conditions(run: Run) -> tuple[str, ...]:
    """What must be equal for two scores to be comparable."""
    base, sample = run.record.base, run.record.sample
    tasks = []
    for language in run.languages:
        task = run.task(language)
        tasks += [language, str(task.version), task.data_digest, task.prompt_digest, run.ids[language]]
    return (
        run.group,
        base.name,
        base.digest or "",
        sample.split,
        str(sample.limit),
        str(sample.seed),
        *tasks,
    )


def _roles(run: Run) -> tuple[tuple[str, ...], tuple[str, ...]]:
    roles = run.record.roles
    return tuple(sorted(roles.supervised)), tuple(sorted(roles.aligned))


def _engine(run: Run) -> tuple[str, str]:
    return run.record.engine.name, run.record.engine.dtype


def _rows(runs: Sequence[Run]) -> tuple[Row, ...]:
    by_row = defaultdict(list)
    for run in runs:
        by_row[_recipe_name(run), _recipe_digest(run), run.record.arm, _engine(run)].append(run)
    labels = _labels(list(by_row))
    order = {"base": 0, "baseline": 1}
    rows = []
    for key in sorted(by_row, key=lambda key: (key[2] != "base", *key[:2], order.get(key[2], 2), *key[2:])):
        seeds = sorted(by_row[key], key=lambda run: (run.record.seed is not None, run.record.seed or 0))
        for one, other in pairwise(seeds):
            if one.record.seed == other.record.seed:
                raise RecordError(
                    f"{one.file} and {other.file} are two records of one model "
                    f"(arm {one.record.arm}, seed {one.record.seed}, same base, tasks and sample); remove one"
                )
        rows.append(Row(labels[key], key[2], tuple(seeds)))
    return tuple(rows)


def _recipe_name(run: Run) -> str:
    return run.record.recipe.name if run.record.recipe and run.record.arm != "base" else ""


def _recipe_digest(run: Run) -> str:
    """What tells apart models of one arm: their recipe, or the adapter itself when trained elsewhere."""
    if run.record.arm == "base":
        return ""
    if run.record.recipe:
        return run.record.recipe.digest
    return run.record.adapter.digest if run.record.adapter else ""


_Key = tuple[str, str, str, tuple[str, str]]


def _labels(keys: Sequence[_Key]) -> dict[_Key, str]:
    """The shortest label that tells a row from the others: arm, then recipe, its digest, engine and dtype."""
    labels = {}
    for key in keys:
        recipe, digest, arm, engine = key
        rivals = [other for other in keys if other != key and other[2] == arm]
        parts = []
        if any(other[:2] != key[:2] for other in rivals):
            same_name = any(other[0] == recipe and other[1] != digest for other in rivals)
            parts.append(f"{recipe} {digest[:7]}".strip() if same_name else recipe)
        if any(other[:2] == key[:2] for other in rivals):
            parts.append(" ".join(engine))
        labels[key] = f"{arm} ({', '.join(parts)})" if parts else arm
    return labels
