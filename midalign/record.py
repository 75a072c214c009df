"""The run record: one JSON file per evaluated model, the counts per item in a compressed file beside it.

Every pooled score, interval and paired test follows from these two files alone. `record.schema.json`
in the package is the JSON Schema of `Record`; scripts/write_schema.py writes it.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import zstandard
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from midalign.adapter import Manifest, RecipeRef
from midalign.data.overlap import Overlap, OverlapCheck
from midalign.errors import RecordError
from midalign.files import write_atomically
from midalign.languages import ROLES, Role, role_of

SUFFIX = ".json"
ITEMS_SUFFIX = ".items.jsonl.zst"

LARGEST_COUNT = 2**31 - 1
"""Largest count and document number in a record."""
LARGEST_COMET = 2**53
"""Largest COMET score in millionths, by absolute value."""

SHOWN = 4
"""Differences in one message."""
TOKENIZER = "tokenizer, chat template or generation settings"
PROMPTS = "prompts"
SHARDS = "run of the shards"
USUAL: dict[str, JsonValue] = {"num_fewshot": 0, "apply_chat_template": False, "system_instruction": ""}
"""Values of conditions that mean the same as not stating them."""

_AGAIN = "Restore it, or remove it with its record and evaluate the model again with midalign eval"

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST_COUNT)]
Total = Annotated[int, Field(strict=True, ge=0)]
"""A sum of counts."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Section(BaseModel):
    """A part of a record: unknown keys are refused, and so is what JSON has no number for."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Base(Section):
    """The pretrained model."""

    name: str
    digest: Digest | None
    """None where only outputs were scored."""
    tokenizer: Digest | None = None
    """Digest of tokenizer, chat template and generation settings; None in older records and of outputs."""
    note: str = ""
    """What a reader must know of it, such as `dequantised`."""


class Adapter(Section):
    """The adapter on the base."""

    name: str
    digest: Digest
    manifest: Manifest | None


class Roles(Section):
    """Languages by the part they had in training: those of the training data, and the unseen of the tasks."""

    supervised: list[str]
    aligned: list[str]
    unseen: list[str]

    def of(self, language: str) -> Role:
        """Return the role of a language, or of a direction: that of its least known side but English."""
        sides = language.split("-")
        known = [side for side in sides if side != "en" or len(sides) == 1]
        return max((role_of(side, self.supervised, self.aligned) for side in known), key=ROLES.index)


class Engine(Section):
    """What generated: `hf`, `vllm`, or `external` for outputs made elsewhere."""

    name: str
    dtype: str
    device: str


class Sample(Section):
    """Which documents: a seeded sample of `limit` of a split, or all of it."""

    split: str
    limit: int | None
    """Items per task, None for all."""
    seed: int
    """Seed of the sample."""


Score = Annotated[float, Field(ge=0)]


class Metric(Section):
    """A pooled score over n items with its bootstrap standard error: a share, or what the family's README
    says, such as per cent for BLEU."""

    value: Score | None
    """None without a case, such as the share of right values where no value was predicted."""
    stderr: Score | None
    n: Count


class Comet(Section):
    """Mean score of one COMET model over a direction's items, with its bootstrap standard error. It compares
    models on this direction and nothing else."""

    name: str
    digest: Digest
    """Of the checkpoint and its hyperparameters."""
    version: str
    """Of unbabel-comet."""
    value: float
    stderr: Annotated[float, Field(ge=0)]
    n: Count


class TaskResult(Section):
    """One language task."""

    language: str
    """A code of `midalign data languages`, or a direction."""
    family: str
    version: float
    """The task's version."""
    n: Count
    """Items."""
    counts: dict[str, Total]
    """The family's columns, summed over the items."""
    metrics: dict[str, Metric]
    """Without those that could not be computed here, such as BLEU where its tokenizer is missing."""
    signatures: dict[str, str] = Field(default_factory=dict)
    """sacreBLEU's signatures by metric; empty in other families and in records of schema version 1."""
    data_digest: str
    """The data set's own digest of the split."""
    prompt_digest: Digest | None
    """sha256 over the items' rendered prompts, each ended by a zero byte; None for outputs from elsewhere."""
    repeated: Count | None = None
    """Items that stand word for word in the same data set's training split; None where nobody looked."""
    without_repeated: dict[str, float | None] = Field(default_factory=dict)
    """The metrics' values without these items; empty where there are none, or no others."""
    max_gen_toks: Count | None = None
    """Limit of an answer in tokens; None in older records and for outputs from elsewhere."""
    cut_off: Count | None = None
    """Outputs that reached the token limit; None where that is not known."""
    prompts_cut: Count | None = None
    """Prompts that lost their beginning, since the base has no room for them and for as long an answer as the
    task allows; None where that is not known."""
    comet: Comet | None = None
    """None where COMET was not asked for, or does not know the languages."""
    seconds: float
    tokens: Total
    """Prompt and output tokens."""


class Retrieval(Section):
    """Does a sentence find its English translation among the candidates, by states of a middle layer?"""

    layer: int
    """Blocks below the state."""
    candidates: Count
    candidates_digest: Digest | None = None
    """sha256 over the lines "<language> <item id>", so that records with the same candidates are known."""
    pooling: str
    accuracy: dict[str, Share]
    """By language, this model."""
    base_accuracy: dict[str, Share] = Field(default_factory=dict)
    """By language, the base without adapter, same candidates."""
    bits_per_character: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """By language and of English, what the model takes to predict the candidates."""
    base_bits_per_character: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class Shard(Section):
    """Which part of a run a partial record has."""

    number: Annotated[int, Field(ge=1)]
    """This shard's number, from 1."""
    of: Annotated[int, Field(ge=1)]
    """Number of shards."""
    run: Digest
    """Of all that decides the whole run's outcome: its shards have the same."""


class ItemsFile(Section):
    """The file of counts per item."""

    file: str
    sha256: Digest


class ItemsLine(Section):
    """One line of the items file: the counts per item of one task, column by column."""

    task: str
    doc_ids: list[Count]
    counts: dict[str, list[Count]]
    comet: list[Annotated[int, Field(strict=True, ge=-LARGEST_COMET, le=LARGEST_COMET)]] | None = None
    repeated: list[Count] = Field(default_factory=list)
    prompts: list[str] | None = None


class Record(Section):
    """One evaluated model."""

    schema_version: Literal[1, 2] = 2
    """Version 1 has no signatures, and 0 where there is no case."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@=+-]*$")]
    """The file's name without its suffix."""
    created: datetime
    """When the evaluation ended, UTC."""
    arm: str
    """`base`, `baseline`, `aligned`, or what the recipe calls it."""
    seed: int | None
    """Seed of the training, None without a manifest."""
    recipe: RecipeRef | None
    base: Base
    adapter: Adapter | None
    roles: Roles
    engine: Engine
    decoding: dict[str, JsonValue]
    """Regime, prompt and generation settings."""
    sample: Sample
    tasks: Annotated[dict[str, TaskResult], Field(min_length=1)]
    """By task name as lm-eval spells it."""
    retrieval: Retrieval | None
    packages: dict[str, str]
    """Versions of the packages that decide what a run gives."""
    seconds: float
    """Time of all tasks."""
    tokens: Total
    """Prompt and output tokens of all tasks."""
    items: ItemsFile | None = None
    """Filled in by `write`."""
    overlap: OverlapCheck | None = None
    """Overlap of the tasks with the text that adapter and base were trained on by midalign. None for other
    bases, for outputs from elsewhere and in older records."""
    run: Digest | None = None
    """Digest of everything that determines the result except package versions. A record with it is reused."""
    shard: Shard | None = None
    """None in a whole record; `midalign leaderboard merge` makes one of all shards."""

    @property
    def known_overlaps(self) -> list[Overlap]:
        """Overlaps of training and test text. An incomplete check has those that training allowed too."""
        manifest = self.adapter.manifest if self.adapter else None
        allowed = (manifest.overlap or []) if manifest else []
        if self.overlap is None:
            return allowed
        of_split = (
            [one for one in allowed if one.split == self.sample.split] if self.overlap.unchecked else []
        )
        return [*self.overlap.found, *of_split]


@dataclass(frozen=True)
class Items:
    """Counts per item of one task: `doc_ids` (n,), `counts` (n, columns), both integer; `comet` (n,) are
    COMET's scores in millionths, where the task has them."""

    doc_ids: np.ndarray
    counts: np.ndarray
    repeated: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Those of `doc_ids` that stand word for word in the same data set's training split."""
    comet: np.ndarray | None = None
    prompts: list[str] | None = None
    """Rendered prompts, in a shard alone: the digest of all of them takes them all."""

    @property
    def unrepeated(self) -> np.ndarray:
        """(n, columns) counts of the others."""
        others: np.ndarray = self.counts[~np.isin(self.doc_ids, self.repeated)]
        return others


def defined(value: float) -> float | None:
    """Return a metric's value as a record has it: None for NaN."""
    return None if np.isnan(value) else value


def decimals(score: float | None, places: int = 3) -> str:
    """Return a score as text, a dash for None."""
    return "–" if score is None else f"{score:.{places}f}"


def without_repeated(items: Items, metrics: Mapping[str, Callable[..., Any]]) -> dict[str, float | None]:
    """Return the metrics over the items that are not repeated; empty where these are all or none."""
    others = items.unrepeated
    if not 0 < len(others) < len(items.counts):
        return {}
    return {name: defined(float(metric(others.sum(0)))) for name, metric in metrics.items()}


@dataclass(frozen=True)
class Conditions:
    """What a result must have in common with an older one of its name in order to replace it."""

    shared: Mapping[str, JsonValue]
    """Conditions of the whole record, by the name that messages use."""
    tasks: Mapping[str, Mapping[str, JsonValue]]
    """Conditions by task."""
    retrieval: bool
    """Whether pair retrieval is measured."""


def shared_conditions(
    base: Base, adapter: str | None, engine: Engine, sample: Sample, decoding: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """Return the shared conditions of a result; `adapter` is the adapter's digest."""
    return {
        # Outputs made elsewhere have no digest of a model. Their note has the digest of the outputs.
        "base": base.digest or f"{base.name}, {base.note}",
        TOKENIZER: base.tokenizer,
        "adapter": adapter,
        "engine": engine.name,
        "dtype": engine.dtype,
        "split": sample.split,
        "limit": sample.limit,
        "sampling seed": sample.seed,
        "regime": "free",
        # Not the tasks' generation settings: a record of more tasks names only those that all of them share.
        **{name: value for name, value in decoding.items() if name != "generation"},
    }


def conditions_of(record: Record) -> Conditions:
    """Return the conditions of a finished result."""
    digest = record.adapter.digest if record.adapter else None
    shared = shared_conditions(record.base, digest, record.engine, record.sample, record.decoding)
    if record.shard:  # a shard of more tasks has other items of each
        shared[SHARDS] = record.shard.run
    tasks = {
        name: task_conditions(
            task.version,
            task.data_digest,
            task.signatures,
            task.max_gen_toks,
            f"{task.comet.digest} {task.comet.version}" if task.comet else None,
            task.prompt_digest,
        )
        for name, task in record.tasks.items()
    }
    return Conditions(shared, tasks, record.retrieval is not None)


def task_conditions(
    version: float,
    data: str,
    signatures: Mapping[str, str],
    limit: int | None,
    comet: str | None,
    prompts: str | None = None,
) -> dict[str, JsonValue]:
    """Return the conditions of a task.

    Args:
        version: the task's version.
        data: digest of its data.
        signatures: sacreBLEU's signatures by metric, empty where they are not known.
        limit: most tokens of an answer, None where that is not known.
        comet: digest and version of the COMET model, None without one.
        prompts: digest of the rendered prompts, None before they are rendered.
    """
    signed = ", ".join(signatures[name] for name in sorted(signatures)) or None
    return {
        "version": version,
        "data": data,
        "signatures": signed,
        "tokens per answer": limit,
        "COMET": comet,
        PROMPTS: prompts,
    }


def refuse_to_replace(path: Path, planned: Conditions) -> None:
    """Raise RecordError where `path` is a record that a planned result may not replace.

    It may replace an older result of the same model under the same conditions, if it has all of its tasks
    and all that is known of them.
    """
    if not path.is_file():
        return
    there = conditions_of(read(path))
    remedy = (
        f"It is not replaced. Write elsewhere (--output OTHER, or output=OTHER for midalign-train), "
        f"or remove it first: rm '{path}'"
    )
    if not set(there.tasks) <= set(planned.tasks):
        others = ", ".join(sorted(there.tasks)[:2])
        raise RecordError(f"{path} is a record of other tasks ({others}, ...). {remedy}")
    differences = list(_differences(there, planned))
    if differences:
        more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise RecordError(
            f"{path} is a result under other conditions: {'; '.join(differences[:SHOWN])}{more}. {remedy}"
        )


def _differences(there: Conditions, planned: Conditions) -> Iterator[str]:
    """Yield in words what the planned result would change or lose."""
    for name in {**there.shared, **planned.shared}:
        before, now = _stated(there, name), _stated(planned, name)
        unknown = name in (TOKENIZER, SHARDS) and None in (before, now)
        if before != now and not unknown:
            yield f"{name} {_short(before)}, now {_short(now)}"
    if there.retrieval and not planned.retrieval:
        yield "retrieval measured, now not (its sentences are those of the first task)"
    for task, conditions in there.tasks.items():
        for name, before in conditions.items():
            now = planned.tasks[task][name]
            if before not in (None, now) and not (name == PROMPTS and now is None):
                yield f"{name} of {task} {_short(before)}, now {_short(now)}"


def _stated(conditions: Conditions, name: str) -> JsonValue:
    """Return a shared condition, None where its value is the usual one."""
    value = conditions.shared.get(name)
    return None if value == USUAL.get(name) else value


def _short(value: JsonValue) -> str:
    """Return a value for a message, digests with their first 12 digits."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", str(value))


def schema() -> dict[str, Any]:
    """The JSON Schema of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema()}


def write(record: Record, items: Mapping[str, Items], folder: Path) -> Path:
    """Write `<name>.json` and `<name>.items.jsonl.zst` into `folder` and return the former's path.

    Each file appears whole or not at all; a record whose items are not its own is caught by the digest.
    Raises RecordError when the items are not those of the record's tasks, and where the record of that name
    is newer or may not be replaced by this one.
    """
    path = folder / (record.name + SUFFIX)
    refuse_to_replace(path, conditions_of(record))
    if path.is_file() and read(path).created > record.created:
        raise RecordError(
            f"{path} is newer than what would replace it. Write elsewhere (--output OTHER), or remove it "
            f"first: rm '{path}'"
        )
    if set(items) != set(record.tasks):
        raise RecordError(f"Items of {sorted(items)} for a record of {sorted(record.tasks)}")
    packed = pack(items, {task: list(result.counts) for task, result in record.tasks.items()})
    name = record.name + ITEMS_SUFFIX
    file = ItemsFile(file=name, sha256=hashlib.sha256(packed).hexdigest())
    text = record.model_copy(update={"items": file}).model_dump_json(indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, packed)
    write_atomically(path, text.encode())
    return path


def file_name(name: str) -> str:
    """Return a model's name in the characters that a record's name may have; a hub id keeps both its parts.

    A digest keeps names apart that differ only in letters outside ASCII.
    """
    name = unicodedata.normalize("NFC", name)
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._@=+-") else "-" for c in name)
    plain = kept.lstrip("._@=+-") or "unnamed"
    return plain if name.isascii() else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def pack(items: Mapping[str, Items], columns: Mapping[str, Sequence[str]]) -> bytes:
    """One JSON line a task, column by column, which compresses several times better than item by item.

    `columns` names a task's counts; raises RecordError where they are not as many.
    """
    lines = []
    for task, one in items.items():
        names = columns[task]
        if one.counts.shape != (len(one.doc_ids), len(names)):
            raise RecordError(f"{task}: counts {one.counts.shape}, expected {(len(one.doc_ids), len(names))}")
        by_column = {name: one.counts[:, i].tolist() for i, name in enumerate(names)}
        line = {"task": task, "doc_ids": one.doc_ids.tolist(), "counts": by_column}
        if one.comet is not None:
            line["comet"] = one.comet.tolist()
        if len(one.repeated):
            line["repeated"] = one.repeated.tolist()
        if one.prompts is not None:
            line["prompts"] = one.prompts
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    return zstandard.ZstdCompressor(level=19).compress("".join(lines).encode())


def read(path: str | Path) -> Record:
    """A record; raises RecordError with the first thing that is wrong with it."""
    path = Path(path)
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RecordError(f"No record {path}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        raise RecordError(
            f"{path} is not a record of schema version 1 or 2: {where}: {problem['msg']}. "
            f"Restore it, or remove it and evaluate the model again with midalign eval"
        ) from None


def read_items(path: str | Path) -> dict[str, Items]:
    """The counts per item of the record at `path`, by task; columns in the order of the task's
    counts in the record.

    Raises RecordError when the file is missing, is not the one that the record was written with, or holds
    anything but one line per task with whole numbers from 0 to LARGEST_COUNT.
    """
    path = Path(path)
    entry = read(path)
    file = entry.items
    if file is None:
        raise RecordError(f"{path} names no items file; evaluate the model again with midalign eval")
    beside = path.parent / file.file
    try:
        packed = beside.read_bytes()
    except FileNotFoundError:
        raise RecordError(f"{beside} is missing; it belongs beside {path}") from None
    found = hashlib.sha256(packed).hexdigest()
    if found != file.sha256:
        raise RecordError(
            f"{beside} is not the file that {path.name} was written with: sha256 {found[:12]}, expected "
            f"{file.sha256[:12]}. Restore it, or remove both and evaluate the model again with midalign "
            f"eval"
        )
    return _unpacked(beside, packed, entry)


def _unpacked(file: Path, packed: bytes, entry: Record) -> dict[str, Items]:
    """Return the items by task; raises RecordError unless each task of the record has one sound line."""
    try:
        lines = zstandard.ZstdDecompressor().decompress(packed).decode().splitlines()
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise RecordError(f"{file} is not zstd-compressed text ({error}). {_AGAIN}") from None
    items: dict[str, Items] = {}
    for number, text in enumerate(lines, start=1):
        try:
            line = ItemsLine.model_validate_json(text)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"])) or "the line"
            found = f", found {problem['input']!r}" if isinstance(problem["input"], int | float) else ""
            raise RecordError(f"{file}, line {number}: {place}: {problem['msg']}{found}. {_AGAIN}") from None
        if line.task not in entry.tasks:
            raise RecordError(f"{file}, line {number}: the record has no task {line.task}. {_AGAIN}")
        if line.task in items:
            raise RecordError(f"{file}, line {number}: duplicate task {line.task}. {_AGAIN}")
        items[line.task] = _items(f"{file}, line {number}", line, list(entry.tasks[line.task].counts))
    missing = [task for task in entry.tasks if task not in items]
    if missing:
        raise RecordError(f"{file} has no line for task {missing[0]}. {_AGAIN}")
    return items


def _items(place: str, line: ItemsLine, columns: Sequence[str]) -> Items:
    """Return a line's items with `columns` in this order; raises RecordError where its lists do not fit."""
    if set(line.counts) != set(columns):
        raise RecordError(
            f"{place}: counts of {', '.join(line.counts)}, but the record has {', '.join(columns)}. {_AGAIN}"
        )
    lengths = {name: len(column) for name, column in line.counts.items()}
    if line.comet is not None:
        lengths["comet"] = len(line.comet)
    for name, length in lengths.items():
        if length != len(line.doc_ids):
            raise RecordError(f"{place}: {length} of {name} for {len(line.doc_ids)} doc_ids. {_AGAIN}")
    if len(set(line.repeated)) < len(line.repeated) or not set(line.repeated) <= set(line.doc_ids):
        raise RecordError(f"{place}: repeated items that are not among the doc_ids. {_AGAIN}")
    return Items(
        np.array(line.doc_ids, np.int64),
        np.array([line.counts[name] for name in columns], np.int64).T,
        np.array(line.repeated, np.int64),
        None if line.comet is None else np.array(line.comet, np.int64),
        line.prompts,
    )
