"""The parts of a record.

Class names and class docstrings are part of record.schema.json.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from midalign.adapter import Manifest, RecipeRef
from midalign.data.overlap import Overlap, OverlapCheck
from midalign.languages import ROLES, Role, role_of

LARGEST_COUNT = 2**31 - 1
"""Largest count and document number in a record."""
LARGEST_COMET = 2**53
"""Largest COMET score in millionths, by absolute value."""
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST_COUNT)]
Total = Annotated[int, Field(strict=True, ge=0)]
"""A sum of counts."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class RecordModel(BaseModel):
    """A part of a record. Unknown keys are rejected, and so are NaN and infinity, which JSON lacks."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Base(RecordModel):
    """The pretrained model."""

    name: str
    digest: Digest | None
    """None if only outputs were scored."""
    tokenizer: Digest | None = None
    """Digest of tokenizer, chat template and generation settings. None in older records and for outputs."""
    note: str = ""
    """A note for readers, such as `dequantised`."""


class Adapter(RecordModel):
    """The adapter on the base."""

    name: str
    digest: Digest
    manifest: Manifest | None


class Roles(RecordModel):
    """Languages by the part they had in training: those of the training data, and the unseen of the tasks."""

    supervised: list[str]
    aligned: list[str]
    unseen: list[str]

    def of(self, language: str) -> Role:
        """Return the role of a language, or of a direction's least known side except English."""
        sides = language.split("-")
        known = [side for side in sides if side != "en" or len(sides) == 1]
        return max((role_of(side, self.supervised, self.aligned) for side in known), key=ROLES.index)


class Engine(RecordModel):
    """The engine that generated: `hf`, `vllm`, or `external` for outputs made elsewhere."""

    name: str
    dtype: str
    device: str
    gpu: str | None = None
    """Name of the GPU, such as `NVIDIA H100 80GB HBM3`. None on other devices and in older records."""
    batch_invariant: bool = False
    """True if vLLM ran with kernels whose results do not depend on the batch."""


class Sample(RecordModel):
    """Which documents: a seeded sample of `limit` of a split, or all of it."""

    split: str
    limit: int | None
    """Items per task, None for all."""
    seed: int
    """Seed of the sample."""


Score = Annotated[float, Field(ge=0)]


class Metric(RecordModel):
    """A pooled score over n items with its bootstrap standard error: a share, or what the family's README
    says, such as per cent for BLEU."""

    value: Score | None
    """None without a case, such as the share of right values if no value was predicted."""
    stderr: Score | None
    n: Count


class Comet(RecordModel):
    """Mean score of one COMET model over a direction's items, with its bootstrap standard error. It compares
    models on this direction and nothing else."""

    name: str
    digest: Digest
    """Digest of the checkpoint and its hyperparameters."""
    version: str
    """Version of unbabel-comet."""
    value: float
    stderr: Annotated[float, Field(ge=0)]
    n: Count


class TaskResult(RecordModel):
    """One language task."""

    language: str
    """A code from `midalign data languages`, or a direction."""
    family: str
    version: float
    """The task's version."""
    n: Count
    """Number of items."""
    counts: dict[str, Total]
    """The family's columns, summed over the items."""
    metrics: dict[str, Metric]
    """Scores by name. Metrics that could not be computed are absent, such as BLEU without its tokenizer."""
    signatures: dict[str, str] = Field(default_factory=dict)
    """sacreBLEU's signatures by metric. Empty in other families and in records of schema version 1."""
    data_digest: str
    """The data set's own digest of the split."""
    prompt_digest: Digest | None
    """sha256 over the rendered prompts, each followed by a zero byte. None for outputs made elsewhere."""
    repeated: Count | None = None
    """Items that occur verbatim in the same data set's training split. None if not checked."""
    without_repeated: dict[str, float | None] = Field(default_factory=dict)
    """The metrics without these items. Empty if there are none, or no others."""
    max_gen_toks: Count | None = None
    """Token limit of an answer. None in older records and for outputs made elsewhere."""
    cut_off: Count | None = None
    """Outputs that reached the token limit. None if not known."""
    prompts_cut: Count | None = None
    """Prompts truncated on the left to fit prompt and maximum answer into the context. None if not known."""
    comet: Comet | None = None
    """COMET's score. None if it was not requested or does not cover the languages."""
    seconds: float
    tokens: Total
    """Prompt and output tokens."""


class Retrieval(RecordModel):
    """Does a sentence find its English translation among the candidates, by states of a middle layer?"""

    layer: int
    """Number of blocks before the state."""
    candidates: Count
    candidates_digest: Digest | None = None
    """sha256 over the lines "<language> <item id>". It identifies records with the same candidates."""
    pooling: str
    accuracy: dict[str, Share]
    """Accuracy of this model by language."""
    base_accuracy: dict[str, Share] = Field(default_factory=dict)
    """Accuracy of the base without adapter by language, on the same candidates."""
    bits_per_character: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Bits per character that the model needs to predict the candidates, by language and for English."""
    base_bits_per_character: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)


class Shard(RecordModel):
    """Which part of a run a partial record has."""

    number: Annotated[int, Field(ge=1)]
    """This shard's number, from 1."""
    of: Annotated[int, Field(ge=1)]
    """Number of shards."""
    run: Digest
    """Digest of everything that determines the whole run's result. All of its shards have the same."""


class ItemsFile(RecordModel):
    """The file of counts per item."""

    file: str
    sha256: Digest


class ItemsLine(RecordModel):
    """One line of the items file: the counts per item of one task, column by column."""

    task: str
    doc_ids: list[Count]
    counts: dict[str, list[Count]]
    comet: list[Annotated[int, Field(strict=True, ge=-LARGEST_COMET, le=LARGEST_COMET)]] | None = None
    repeated: list[Count] = Field(default_factory=list)
    prompts: list[str] | None = None


class Record(RecordModel):
    """One evaluated model."""

    schema_version: Literal[1, 2] = 2
    """Version 1 has no signatures, and 0 instead of null without a case."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@=+-]*$")]
    """The file's name without its suffix."""
    created: datetime
    """When the evaluation ended, UTC."""
    arm: str
    """`base`, `baseline`, `aligned`, or another name from the recipe."""
    seed: int | None
    """Training seed. None without a manifest."""
    recipe: RecipeRef | None
    base: Base
    adapter: Adapter | None
    roles: Roles
    engine: Engine
    decoding: dict[str, JsonValue]
    """Regime, prompt settings and generation settings."""
    sample: Sample
    tasks: Annotated[dict[str, TaskResult], Field(min_length=1)]
    """Results by task name, as lm-eval spells it."""
    retrieval: Retrieval | None
    packages: dict[str, str]
    """Versions of the packages that determine a run's result."""
    seconds: float
    """Time of all tasks."""
    tokens: Total
    """Prompt and output tokens of all tasks."""
    items: ItemsFile | None = None
    """Set by `write_record`."""
    overlap: OverlapCheck | None = None
    """Overlap of the tasks with the text that adapter and base were trained on by midalign. None for other
    bases, for outputs made elsewhere and in older records."""
    run: Digest | None = None
    """Digest of everything that determines the result except package versions. A record with it is reused."""
    trained_on: str = ""
    """Training data of an adapter without a manifest, declared by `midalign eval --trained-on`."""
    shard: Shard | None = None
    """None in a complete record. `midalign leaderboard merge` joins all shards into one."""

    @property
    def wording(self) -> int:
        """Number of the prompts' wording, 1 for that of the task files."""
        number = self.decoding.get("wording", 1)
        return number if isinstance(number, int) else 1

    @property
    def known_overlaps(self) -> list[Overlap]:
        """Overlaps of training and test text. An incomplete check has those that training allowed too."""
        manifest = self.adapter.manifest if self.adapter else None
        allowed = (manifest.overlap or []) if manifest else []
        if self.overlap is None:
            return allowed
        if not self.overlap.unchecked:
            return list(self.overlap.found)
        return [*self.overlap.found, *(entry for entry in allowed if entry.split == self.sample.split)]


def format_score(score: float | None, places: int = 3) -> str:
    """Return a score as text, or a dash for None."""
    return "–" if score is None else f"{score:.{places}f}"


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema()}
