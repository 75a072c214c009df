"""Settings of an evaluation, its progress, its models, and where their records go."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from midalign import adapter as adapters
from midalign import record
from midalign.evaluate.thoughts import BUDGET

SEED = 0
BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""Environment variable that vLLM reads."""
EngineName = Literal["auto", "vllm", "hf"]
Split = Literal["validation", "test"]
WordingNumber = Literal[1, 2, 3]


def batch_invariant_by_default() -> bool:
    """Return whether vLLM is batch-invariant unless it is told otherwise."""
    return os.environ.get(BATCH_INVARIANT) == "1"


@dataclass(frozen=True)
class EvalSettings:
    """Settings of one evaluation: the options of `midalign eval`."""

    base: str
    tasks: tuple[str, ...]
    output: Path
    adapters: tuple[Path, ...] = ()
    adapters_only: bool = False
    """Skip the base model. An untuned base often generates until the token limit."""
    engine: EngineName = "auto"
    split: Split = "test"
    limit: int | None = None
    supervised: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    note: str = ""
    trained_on: str = ""
    """Training data of adapters without a manifest, in words."""
    log_samples: bool = False
    save_outputs: bool = False
    """Save outputs with input and gold answer, compressed, next to each record that is written."""
    comet: str | None = None
    """A COMET model: checkpoint, folder or hub id."""
    num_fewshot: int = 0
    wording: WordingNumber = 1
    """Wording of the prompts: that of the task files, or one of two others."""
    apply_chat_template: bool = False
    system_instruction: str | None = None
    think_end_token: str | None = None
    """Text that ends the thoughts of a reasoning model. All text up to it is removed."""
    max_thinking_tokens: int = BUDGET
    enable_thinking: bool | None = None
    """Value of `enable_thinking` in the chat template; None for the default of the template."""
    constrained: bool = False
    shard: tuple[int, int] | None = None
    """(I, N): the I-th of N parts of the items."""
    tensor_parallel: int = 1
    """GPUs that vLLM splits the model over."""
    max_loras: int = 1
    """Adapters that vLLM answers as in one batch."""
    batch_invariant: bool = field(default_factory=batch_invariant_by_default)
    """vLLM's kernels whose results do not depend on the batch, so that repeated runs answer alike."""

    @property
    def regime(self) -> str:
        """Decoding regime. Scores of the two regimes are not comparable."""
        return "constrained" if self.constrained else "free"

    @property
    def keeps_outputs(self) -> bool:
        """True if outputs are needed after lm-eval has scored them."""
        return self.log_samples or self.save_outputs or self.comet is not None or self.shard is not None


@dataclass(frozen=True)
class EvalProgress:
    """Progress of one model: its answered items, and the task that has just been finished."""

    model: str
    done: int
    total: int
    finished: str | None = None
    headline: float | None = None
    cut_off: int = 0
    """Outputs of the finished task that reached the token limit."""


EvalReporter = Callable[[EvalProgress], None]


@dataclass(frozen=True)
class EvaluatedModel:
    """One model to evaluate: the base, or an adapter on it."""

    name: str
    folder: Path | None
    digest: str | None
    manifest: adapters.Manifest | None

    @property
    def adapter(self) -> str | None:
        """Name of the adapter in the engine; None for the base."""
        return None if self.folder is None else self.name

    def declared_training(self, settings: EvalSettings) -> str:
        """Return `trained_on` of the settings for an adapter without a manifest, and nothing for others."""
        return settings.trained_on if self.folder is not None and self.manifest is None else ""


def base_name(base: str) -> str:
    """Return the last part of a folder, or the hub id. Records are published and contain no paths."""
    return Path(base).resolve().name if Path(base).is_dir() else base


def record_path(settings: EvalSettings, model: EvaluatedModel) -> Path:
    """Return the path of a model's record."""
    return settings.output / f"{record_name(settings, model)}{record.SUFFIX}"


def record_name(settings: EvalSettings, model: EvaluatedModel) -> str:
    """Return the name of a model's record, which differs between regimes, wordings and shards."""
    name = f"{model.name}-constrained" if settings.constrained else model.name
    name = f"{name}-wording{settings.wording}" if settings.wording != 1 else name
    return f"{name}.shard-{settings.shard[0]}-of-{settings.shard[1]}" if settings.shard else name
