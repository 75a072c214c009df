"""Group runs into sections that may share a table, and into rows of seeds."""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from midalign.data.registry import treebanks
from midalign.errors import RecordError
from midalign.languages import ROLES, ResourceClass, Role, role_of, same_language
from midalign.languages import language as known
from midalign.leaderboard.load import Run
from midalign.metrics import Scorer, scorer
from midalign.metrics.description import MetricDescription


@dataclass(frozen=True)
class BoardRow:
    """The seeds of one recipe and arm, trained in one dtype and evaluated by one engine in one dtype."""

    label: str
    arm: str
    runs: tuple[Run, ...]
    """Runs by seed."""

    @property
    def baseline(self) -> str | None:
        """Digest of the baseline to compare with. None for the base and for adapters trained elsewhere."""
        reference = self.runs[0].record.recipe
        return (reference.baseline or reference.digest) if reference else None

    @property
    def engine(self) -> tuple[str, str]:
        """Engine and dtype."""
        return _engine(self.runs[0])

    @property
    def training_dtype(self) -> str | None:
        """Dtype of the training, None if not known."""
        return _training_dtype(self.runs[0])


@dataclass(frozen=True)
class BoardSection:
    """Runs on the same items, prompts, base and tokenizer, whose languages have the same roles."""

    group: str
    supervised: tuple[str, ...]
    aligned: tuple[str, ...]
    rows: tuple[BoardRow, ...]
    """Base first, then each recipe's baseline and its other arms."""

    @property
    def first(self) -> Run:
        """Any of its runs, to read what all have in common."""
        return self.rows[0].runs[0]

    @property
    def tokenizer(self) -> str | None:
        """Digest of tokenizer, chat template and generation settings. None if no record has it."""
        runs = (run for row in self.rows for run in row.runs)
        return next(filter(None, (run.record.base.tokenizer for run in runs)), None)

    @property
    def regime(self) -> str:
        """How its outputs were decoded: free or constrained."""
        return str(_decoding(self.first)["regime"])

    @property
    def wording(self) -> int:
        """Number of the prompts' wording, 1 for that of the task files."""
        return self.first.record.wording

    @property
    def languages(self) -> list[str]:
        """Sorted codes of the languages that were evaluated."""
        return self.first.languages

    @property
    def family(self) -> str:
        """The tasks' family."""
        return self.first.task(self.languages[0]).family

    @property
    def unit(self) -> str:
        """The unit that is scored: `language` or, in translation, `direction`."""
        return "direction" if self.family == "translation" else "language"

    @property
    def scorer(self) -> Scorer:
        """The family's columns and metrics."""
        return scorer(self.family)

    @cached_property
    def metrics(self) -> dict[str, MetricDescription]:
        """The family's metrics that all records have of the same task, the headline first.

        Records of earlier versions lack newer metrics unless these follow from their counts. Some tasks lack
        some metrics.
        """
        runs = [run for row in self.rows for run in row.runs]
        known = {
            name
            for code in self.languages
            for name in set.intersection(*(set(run.task(code).metrics) for run in runs))
        } | set(self.scorer.DERIVED_METRICS)
        return {name: metric for name, metric in self.scorer.METRICS.items() if name in known}

    def role(self, code: str) -> Role:
        """Return the role of a language in these runs. Neither supervised nor aligned means unseen.

        A direction has the role of its least known side except English.
        """
        return code_role(code, self.supervised, self.aligned)

    def repeated(self, code: str) -> int | None:
        """Return how many items occur verbatim in the data set's training split. None if no record knows."""
        tasks = [run.task(code) for row in self.rows for run in row.runs]
        return next((task.repeated for task in tasks if task.repeated is not None), None)


def code_role(code: str, supervised: Collection[str], aligned: Collection[str]) -> Role:
    """Return the role of a language, treebank or direction."""
    return max((role_of(side, supervised, aligned) for side in _sides(code)), key=ROLES.index)


def _sides(code: str) -> list[str]:
    """Return the languages of a code: itself, a treebank's, or the sides of a direction except English."""
    if code in treebanks():
        return [treebanks()[code]]
    return [side for side in code.split("-") if side != "en" or "-" not in code]


def language_title(code: str) -> str:
    """Return the name of a language or a treebank's language, or `English to German` for a direction."""
    sides = _sides(code) if code in treebanks() else code.split("-")
    return " to ".join(known(side).name for side in sides)


def resource_of(code: str) -> ResourceClass:
    """Return the resource class of a language, or of a direction's side with the least resources."""
    classes: tuple[ResourceClass, ...] = ("high", "mid", "low")
    return max((known(side).resource for side in _sides(code)), key=classes.index)


def language_sets(section: BoardSection) -> dict[str, list[str]]:
    """Return the sets that means are taken over, none empty: all, roles, non-supervised, resource classes."""
    codes = section.languages
    sets = {"all": codes}
    sets |= {role: [code for code in codes if section.role(code) == role] for role in ROLES}
    sets["non-supervised"] = sets["aligned"] + sets["unseen"]
    for resource in ("high", "mid", "low"):
        sets[resource] = [code for code in codes if resource_of(code) == resource]
    return {name: members for name, members in sets.items() if members}


def group_runs(runs: Sequence[Run]) -> list[BoardSection]:
    """Return the runs in sections of comparable runs, sorted.

    Raises RecordError for two records of the same model, seed, tasks and sample.
    """
    # 1. Split by conditions, then by what older records do not state: tokenizer and token limits.
    comparable = defaultdict(list)
    for run in runs:
        comparable[_conditions(run)].append(run)
    groups = [(conditions[0], comparable[conditions]) for conditions in sorted(comparable)]
    by_tokenizer = [(group, part) for group, alike in groups for part in _by_tokenizer(alike)]
    by_limits = [(group, part) for group, alike in by_tokenizer for part in _by_limits(alike)]
    # 2. Split by the roles that trained models gave the languages.
    sections = []
    for group, members in by_limits:
        trained = defaultdict(list)
        for run in members:
            if run.record.arm != "base":
                trained[_roles(run)].append(run)
        bases = [run for run in members if run.record.arm == "base"]
        for roles in sorted(trained) or sorted({_roles(run) for run in bases}):
            bases_of_roles = [run for run in bases if _roles(run) == roles]
            supervised, aligned = _trained_codes(trained[roles] or bases_of_roles)
            # A base was trained on no role. If none was scored under these, take any, one per engine.
            any_base = list({_engine(run): run for run in bases}.values())
            rows = _rows([*(bases_of_roles or any_base), *trained[roles]])
            sections.append(BoardSection(group, supervised, aligned, rows))
    return sections


def _by_tokenizer(runs: Sequence[Run]) -> list[list[Run]]:
    """Split the runs by the tokenizer of their base, in the order of the digests.

    Older records lack it. They stay with the others if these have one tokenizer, and apart if they have
    several.
    """
    known = {run.record.base.tokenizer for run in runs if run.record.base.tokenizer}
    if len(known) < 2:
        return [list(runs)]
    by_digest = defaultdict(list)
    for run in runs:
        by_digest[run.record.base.tokenizer or ""].append(run)
    return [by_digest[digest] for digest in sorted(by_digest)]


def _by_limits(runs: Sequence[Run]) -> list[list[Run]]:
    """Split the runs by the token limits of their answers, in a fixed order.

    Older records lack them. They stay with the others if these have the same limits, and apart if they
    differ.
    """
    limits = [tuple(run.task(code).max_gen_toks for code in run.languages) for run in runs]
    if len({limit for limit in limits if None not in limit}) < 2:
        return [list(runs)]
    by_limit = defaultdict(list)
    for run, limit in zip(runs, limits, strict=True):
        by_limit[str(limit)].append(run)
    return [by_limit[key] for key in sorted(by_limit)]


def _conditions(run: Run) -> tuple[str, ...]:
    """Return what must be equal for two scores to be comparable."""
    base, sample = run.record.base, run.record.sample
    tasks = []
    for language in run.languages:
        task = run.task(language)
        tasks += [language, str(task.version), task.data_digest, task.prompt_digest or "", run.ids[language]]
        tasks.append(json.dumps(task.signatures, sort_keys=True))
    return (
        run.group,
        base.name,
        base.digest or "",
        sample.split,
        str(sample.limit),
        str(sample.seed),
        json.dumps(decoding_settings(run), sort_keys=True),
        *tasks,
    )


def decoding_settings(run: Run) -> dict[str, Any]:
    """Return the decoding settings that comparable records share.

    Without token limits, which differ per task: a record of several tasks names only a common one.
    """
    decoding = _decoding(run)
    generation = {
        key: value for key, value in decoding.get("generation", {}).items() if key != "max_gen_toks"
    }
    batch_invariant = {"batch_invariant": True} if run.record.engine.batch_invariant else {}
    return {**decoding, "generation": generation, **batch_invariant}


def _decoding(run: Run) -> dict[str, Any]:
    """Return the decoding settings. Records without a regime are free."""
    return {"regime": "free", **run.record.decoding}


def _roles(run: Run) -> tuple[tuple[str, ...], ...]:
    """Return the supervised and aligned languages and the role of each evaluated language.

    Runs with an equal result have the same roles, even if they spell a language by different codes.
    """
    supervised, aligned = run.record.roles.supervised, run.record.roles.aligned
    trained = (tuple(sorted(set(map(same_language, codes)))) for codes in (supervised, aligned))
    return (*trained, tuple(code_role(code, supervised, aligned) for code in run.languages))


def _trained_codes(runs: Sequence[Run]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return all codes of supervised and of aligned languages, sorted."""
    roles = [run.record.roles for run in runs]
    supervised = {code for role in roles for code in role.supervised}
    aligned = {code for role in roles for code in role.aligned}
    return tuple(sorted(supervised)), tuple(sorted(aligned))


def _engine(run: Run) -> tuple[str, str]:
    return run.record.engine.name, run.record.engine.dtype


def _training_dtype(run: Run) -> str | None:
    adapter = run.record.adapter
    return adapter.manifest.dtype if adapter and adapter.manifest else None


def _rows(runs: Sequence[Run]) -> tuple[BoardRow, ...]:
    by_key = defaultdict(list)
    for run in runs:
        # An adapter under two names is the same model.
        by_key[_key(run)._replace(name="")].append(run)
    keys = [_key(members[0]) for members in by_key.values()]
    order = {"base": 0, "baseline": 1}
    rows = []
    for key, members in zip(keys, by_key.values(), strict=True):
        seeds = sorted(members, key=lambda run: (run.record.seed is not None, run.record.seed or 0))
        for run, other in pairwise(seeds):
            if run.record.seed == other.record.seed:
                raise RecordError(
                    f"{run.file} and {other.file} are two records of one model "
                    f"(arm {key.arm}, seed {run.record.seed}, same base, tasks and sample); remove one"
                )
        rows.append(BoardRow(_label(key, keys), key.arm, tuple(seeds)))
    # The base comes first, then each recipe's arms, starting with its baseline.
    return tuple(
        sorted(
            rows, key=lambda row: (row.arm != "base", row.baseline or "", order.get(row.arm, 2), row.label)
        )
    )


class _Key(NamedTuple):
    """Properties that the seeds of a row share."""

    arm: str
    name: str
    """The recipe's name, or the record's without a known recipe."""
    digest: str
    """The digest of the recipe's arm, or of the adapter without a known recipe."""
    engine: tuple[str, str]
    training_dtype: str | None = None


def _key(run: Run) -> _Key:
    entry = run.record
    if entry.arm == "base":
        return _Key("base", "", "", _engine(run))
    if entry.recipe:
        recipe = entry.recipe
        return _Key(entry.arm, recipe.name, recipe.digest, _engine(run), _training_dtype(run))
    return _Key(entry.arm, entry.name, entry.adapter.digest if entry.adapter else "", _engine(run))


def _label(key: _Key, keys: Sequence[_Key]) -> str:
    """Return the shortest label that distinguishes a row from the others.

    It starts with the arm. Recipe, its digest, training dtype, engine and dtype follow as needed.
    """
    rivals = [other for other in keys if other != key and other.arm == key.arm]
    parts = []
    if any(other.digest != key.digest for other in rivals):
        same_name = any(other.name == key.name and other.digest != key.digest for other in rivals)
        parts.append(f"{key.name} {key.digest[:7]}" if same_name else key.name)
    alike = [other for other in rivals if other.digest == key.digest]
    if any(other.training_dtype != key.training_dtype for other in alike):
        parts.append(f"trained in {key.training_dtype or 'unknown dtype'}")
    if any(other.engine != key.engine for other in alike):
        parts.append(" ".join(key.engine))
    return f"{key.arm} ({', '.join(parts)})" if parts else key.arm
