"""The manifest of an adapter: `midalign.json`, which says how the adapter was made."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from midalign.data.overlap import Overlap
from midalign.errors import AdapterError, first_problem

MANIFEST = "midalign.json"


class RecipeRef(BaseModel):
    """A recipe by name, and an arm of it by the digest of everything that determines its weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str
    baseline: str | None = None
    """Digest of the arm's baseline: the recipe's task training alone. None in older manifests, where all arms
    share the recipe's digest."""


class TrainingText(BaseModel):
    """A source of text that an adapter was trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["task", "pairs"]
    source: str
    """A task or group whose training split was used, or the recipe's `align.pairs`."""
    languages: tuple[str, ...]
    digest: str | None
    """`overlap.texts_digest` of the sentences. None for tasks of lm-eval and in older manifests."""


class Parent(BaseModel):
    """An adapter that was merged into another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str
    settings: dict[str, JsonValue] | None = None
    """`Manifest.settings` of this adapter. None in older manifests and for merged adapters."""
    parents: "list[Parent] | None" = None
    """The adapters that this one was merged from. None in older manifests and for trained adapters."""

    @property
    def known_settings(self) -> list[tuple[str, dict[str, JsonValue]]]:
        """Name and settings of this adapter, or of each trained adapter that it was merged from."""
        if self.settings is not None:
            return [(self.name, self.settings)]
        return [entry for parent in self.parents or [] for entry in parent.known_settings]

    @property
    def described(self) -> str:
        """The name, with the adapters that it was merged from in parentheses."""
        if not self.parents:
            return self.name
        return f"{self.name} (merged from {', '.join(parent.described for parent in self.parents)})"


class Manifest(BaseModel):
    """`midalign.json`: how an adapter was made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str
    arm: str
    seed: int
    recipe: RecipeRef
    base: str
    base_digest: str
    task: str
    """The group or task whose training split was used."""
    supervised: list[str]
    aligned: list[str]
    unseen: list[str] = Field(default_factory=list)
    """Empty: every other language of the task."""
    layer: int | None
    """Number of blocks below the aligned hidden state; None without alignment."""
    pairs: str | None
    updates: int
    """Updates of the task, or of alignment alone, up to these weights (the last or the best)."""
    tokens: int
    """Training tokens up to these weights."""
    seconds: float
    packages: dict[str, str]
    training: dict[str, float]
    """Last losses by name before these weights; empty for weights from before the first update."""
    trained_on: list[TrainingText] | None = None
    """Text that the adapter was trained on; None in older manifests."""
    overlap: list[Overlap] | None = None
    """Overlap of training text and the recipe's evaluation text that the recipe allowed; None if not checked.
    Every evaluation checks its own tasks, too, and its record has the result."""
    parents: list[Parent] | None = None
    """Adapters that were merged into this one; None for a trained adapter."""
    tokenizer_digest: str | None = None
    """Digest of the base's tokenizer, chat template and generation settings; None in older manifests."""
    dtype: str | None = None
    """Dtype of matrix products in training, such as `bfloat16`, several of them for a merged adapter whose
    parents differ. None in older manifests."""
    settings: dict[str, JsonValue] | None = None
    """Keys of the recipe that determine the arm's weights, with their values, defaults included. None in
    older manifests, and for merged adapters: `parents` has the settings of each, at any depth."""
    base_hub_id: str | None = None
    """Name of the base on the Hugging Face hub. None if not known, as for most local folders."""
    base_licence: str | None = None
    """Licence in the base's model card. None if not known."""

    @property
    def known_settings(self) -> list[tuple[str, dict[str, JsonValue]]]:
        """Name and settings of the arm, or of each trained adapter that a merged one was made of.

        An adapter that is part of several merges is listed once. Empty in older manifests.
        """
        every = [(self.arm, self.settings)] if self.settings is not None else []
        for entry in (entry for parent in self.parents or [] for entry in parent.known_settings):
            if entry not in every:
                every.append(entry)
        return every

    @property
    def training_text(self) -> list[TrainingText] | None:
        """Text that the adapter was trained on; None in older manifests of merged adapters."""
        if self.trained_on is not None or self.parents is not None:
            return self.trained_on
        texts = [TrainingText(kind="task", source=self.task, languages=tuple(self.supervised), digest=None)]
        if self.pairs is not None:
            aligned = tuple(self.aligned)
            texts.append(TrainingText(kind="pairs", source=self.pairs, languages=aligned, digest=None))
        return texts


def read_manifest(folder: str | Path) -> Manifest | None:
    """Return `midalign.json` of an adapter, or None without one. Raises AdapterError if it is malformed."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise AdapterError(
            f"{path} is malformed: {first_problem(error)}. "
            f"Restore it, or remove it and give the roles as options: --supervised en,de --aligned sw"
        ) from error
