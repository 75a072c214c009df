"""Recipes in YAML: their keys, and how they are loaded and checked."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from midalign import harness
from midalign.adapter import RecipeRef
from midalign.data.pairs import pairs_identity
from midalign.errors import RecipeError, nearest
from midalign.shipped import shipped_names, shipped_text

BESIDE_WEIGHTS = frozenset(
    {"output", "evaluate", "evaluation", "seeds", "save_every", "allow_overlap", "report_to", "base_hub_id"}
)
"""Keys of a recipe that do not determine the weights of an arm and seed."""


class RecipeSection(BaseModel):
    """A part of a recipe. Unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(BaseModel):
    """Shape of the adapter. Other keys are fields of peft's LoraConfig."""

    model_config = ConfigDict(extra="allow", frozen=True)

    r: PositiveInt
    """Rank."""
    alpha: PositiveInt
    """Scale: the update is multiplied by alpha / r."""
    dropout: float = Field(ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: str | list[str]
    """Modules that get an adapter, by name, or `all-linear`."""


Layer = Literal["middle", "auto"] | Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]


class MonitorSettings(RecipeSection):
    """Measurements on the validation split during training."""

    every: PositiveInt
    """Updates between two measurements."""
    samples: PositiveInt = 50
    """Validation documents per language that the task's loss is measured on."""
    generate: PositiveInt | None = None
    """Items per language to generate and score with the task's metrics."""
    stop_on: str | None = None
    """Measure for early stopping and for choosing the best adapter, the same in all arms, such as
    `task_loss/supervised` or `slot_f1/aligned`."""
    patience: PositiveInt = 3
    """Measurements without improvement before an arm stops."""


class Align(RecipeSection):
    """Settings of the alignment loss."""

    pairs: str
    """`tatoeba`, `ntrex`, a set with parallel training utterances (`massive`, `mini`), or a TSV path."""
    pairs_per_update: PositiveInt
    """Sentence pairs per update of the alignment loss."""
    pairs_a_language: PositiveInt | None = None
    """Number of training pairs per language, null for all. They are chosen by their English sentence, so that
    languages share sentences where possible, and a smaller number is a subset of a larger one."""
    multiway: bool = False
    """Pair a sentence with its translation in any other aligned language or English, where the source has
    that English sentence in several languages."""
    layer: Layer | list[Layer]
    """`middle`, a number of blocks, a share of them below 1, or `auto`: where the base finds the most
    translations among held-out pairs of the aligned languages. Several are aligned at once. Monitor,
    manifest and records measure retrieval after the first of them."""
    layer_weights: list[float] | None = None
    """Weights of several layers. Equal by default."""
    objective: Literal["info_nce", "cosine", "squared"] = "info_nce"
    """The alignment loss: contrastive, or without negatives by cosine or by squared distance."""
    weight: float = Field(ge=0)
    """Weight of the alignment loss beside the task loss. 0 skips it. Samples made of the pairs stay."""
    temperature: float = Field(gt=0)
    """Divisor of the cosines in `info_nce`."""
    learn_temperature: bool = False
    """Train the temperature too, starting from `temperature`."""
    symmetric: bool
    """Mean of both directions of `info_nce`. False: foreign sentences to English ones alone."""
    context: Literal["sentence", "prompt"] = "sentence"
    """The text that is aligned: bare sentences, or the task's prompt with each sentence in place of its
    utterance or text."""
    pooling: Literal["mean", "last"] = "mean"
    """How the hidden states of a sentence become one vector."""
    centred: bool | Literal["running"]
    """Subtract each side's mean over the batch. `running`: subtract each language's running mean."""
    include_bos: bool
    """Include the first token's state in the mean."""
    stop_gradient: Literal["foreign", "english"] | None = None
    """Treat this side of the pairs as a constant."""
    preservation: float = Field(ge=0)
    """Weight of token preservation, relative to the contrastive loss."""
    held_out: int = Field(ge=0, default=0)
    """Pairs per language that are held out of training, for `layer: auto` and the monitor."""
    copy_samples: int = Field(ge=0)
    """Sentences of the pairs per update that the model learns to repeat."""
    text_samples: int = Field(ge=0, default=0)
    """Sentences of the pairs per update that the model learns to predict."""
    switched_samples: int = Field(ge=0, default=0)
    """English task samples per update in which words and whole slot values are replaced by translations from
    a lexicon of the pairs, for slot filling."""
    alternate: Literal["joint", "micro", "update"] = "joint"
    """How both losses share updates: `joint` is their sum, `micro` alternates parts of an update, `update`
    alternates updates."""
    ratio: tuple[PositiveInt, PositiveInt] = (1, 1)
    """Task to alignment: parts of an update for `micro`, updates for `update`."""
    cycles: PositiveInt = 1
    """How often `micro` repeats the ratio within an update."""
    rise: float = Field(ge=0, le=1, default=0.0)
    """Share of the task's updates over which the weight rises to its value."""
    until: float = Field(ge=0, le=1, default=1.0)
    """Share of the task's updates after which alignment ends."""
    first: float = Field(ge=0, default=0.0)
    """Updates of alignment alone before the task's, as a share of these."""
    task: bool = True
    """False trains alignment alone, for an adapter to merge."""

    @model_validator(mode="after")
    def _consistent(self) -> "Align":
        layers = self.layer if isinstance(self.layer, list) else [self.layer]
        if self.layer_weights is not None and len(self.layer_weights) != len(layers):
            raise ValueError(f"{len(layers)} layers have {len(self.layer_weights)} layer_weights")
        parts = self.ratio[1] * self.cycles
        if self.alternate == "micro" and self.pairs_per_update % parts:
            raise ValueError(f"pairs_per_update={self.pairs_per_update} cannot be divided into {parts} parts")
        batch = self.pairs_per_update // (parts if self.alternate == "micro" else 1)
        if batch < 2 and (self.objective == "info_nce" or self.centred is True):
            raise ValueError(
                "a contrastive batch of one pair has no negatives and is its own mean: "
                f"set pairs_per_update={2 * self.pairs_per_update // batch} or more"
            )
        if not (self.weight or self.copy_samples or self.text_samples or self.switched_samples):
            raise ValueError("weight=0 without samples of the pairs is the task alone: set the arm to null")
        if self.until == 0 and not self.first and self.task:
            raise ValueError("until=0 and first=0 never align: set until above 0, or the arm to null")
        if self.context == "prompt" and self.include_bos and self.pooling == "mean":
            raise ValueError(
                "context=prompt with include_bos=true would average the prompt's instruction too: "
                "set include_bos=false, or pooling=last"
            )
        if self.multiway and self.centred == "running":
            raise ValueError("multiway has several languages on both sides: centred=true instead of running")
        if self.multiway and self.stop_gradient is not None:
            raise ValueError("multiway has no English side to tell from the other: stop_gradient=null")
        return self


class Evaluation(RecipeSection):
    """The automatic evaluation after training."""

    base: bool = True
    """Score the base too."""
    languages: list[str] | Literal["all"] = "all"
    """Languages to score."""
    split: Literal["validation", "test"] = "test"
    """Split to score: `validation` for choices, `test` for reports."""
    limit: PositiveInt | None = None
    """Items per task, a seeded sample. null: all items."""
    engine: Literal["auto", "vllm", "hf"] = "auto"
    """`auto` is vLLM on CUDA where it can serve the adapters, and Hugging Face elsewhere."""
    note: str | None = None
    """A remark on the base for readers of the records, such as "dequantised from Q4_K_M"."""


class Recipe(RecipeSection):
    """An experiment whose arms differ in alignment only and see the same task samples in the same order."""

    name: str
    """Name of the experiment, in adapters, records and tables."""
    base: str
    """A folder, a model id of the hub, or `mini` for the bundled base."""
    base_hub_id: str | None = None
    """Hub id of the base if `base` is a folder with the hub's files. Written to card and
    adapter_config.json."""
    task: str
    """A task or group of midalign, `FAMILY:FILE` for your own data, or `lm_eval:TASK`."""
    supervised: list[str] = Field(min_length=1)
    """Languages with task data."""
    aligned: list[str]
    """Languages with sentence pairs alone."""
    arms: dict[str, dict[str, Any] | None]
    """The keys of `align` that each arm changes. null trains the task alone."""
    seeds: list[int] = Field(min_length=1)
    """Seeds. Each arm is trained once per seed."""
    updates: PositiveInt
    """Updates of the task per arm."""
    samples_per_update: PositiveInt
    """Task samples per update."""
    labelled_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training items, by id, that the task is trained on. Pairs of a parallel data set then come
    from the other items: a translation of a labelled sentence would be labelled data. null: all items."""
    learning_rate: float = Field(gt=0)
    """Peak learning rate."""
    scheduler: Literal["linear", "cosine", "constant_with_warmup", "inverse_sqrt"]
    """Learning-rate schedule after the warm-up."""
    warmup: float = Field(ge=0, lt=1)
    """Share of the updates over which the learning rate rises."""
    max_tokens: PositiveInt
    """Tokens per sample at most."""
    max_batch_tokens: PositiveInt | None = None
    """Tokens per forward pass at most: less memory, more forward passes, the same update."""
    recompute: bool = False
    """Recompute activations in the backward pass: less memory, a third more time."""
    load_in_4bit: bool = False
    """The base's linear layers in 4 bits (bitsandbytes)."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Dtype of matrix products. `auto` is bfloat16 where the hardware supports it. It changes the weights."""
    packing: bool = True
    """Pack several samples into a row where the base allows it, and compute their common prefix once."""
    save_every: PositiveInt
    """Updates between two checkpoints."""
    too_long: Literal["truncate", "drop"] = "truncate"
    """Samples longer than max_tokens: truncate the prompt on the left, or drop the sample."""
    chat_template: bool
    """Wrap prompts in the base's chat template."""
    system_instruction: str | None
    """Text of the system turn."""
    lora: Lora | None
    """null trains all weights."""
    align: Align
    output: Path
    """Folder for adapters, checkpoints and records."""
    evaluate: bool
    """Evaluate base and adapters after training."""
    evaluation: Evaluation
    monitor: MonitorSettings | None = None
    report_to: list[Literal["comet_ml", "tensorboard", "wandb"]] = []
    """Trackers that get losses and measurements, besides the log."""
    arguments: dict[str, Any] = {}
    """Other fields of transformers' TrainingArguments, such as fsdp, deepspeed, optim or max_grad_norm."""
    allow_overlap: bool = False
    """Train even if the training text contains evaluation text."""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"duplicate seeds in {self.seeds}")
        both = sorted(set(self.supervised) & set(self.aligned))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both supervised and aligned")
        for arm in self.arms:
            align = self.align_of(arm)
            if self.lora is None and align is not None and align.preservation:
                raise ValueError("token preservation compares with the base under an adapter: lora is null")
            if align is not None and align.multiway and len(self.aligned) < 2:
                raise ValueError("multiway pairs aligned languages with each other: aligned needs two")
        for align in [self.align, *filter(None, map(self.align_of, self.arms))] if self.aligned else []:
            auto = "auto" in (align.layer if isinstance(align.layer, list) else [align.layer])
            if not align.held_out and (auto or self.monitor is not None):
                what = "align.layer: auto" if auto else "monitor"
                raise ValueError(f"{what} measures pairs that are kept from training: align.held_out=100")
        if self.monitor is not None and self.monitor.generate is not None:
            if harness.is_stock(self.task):
                raise ValueError(
                    "monitor.generate scores midalign's tasks: set it to null for a task of lm-eval"
                )
            if self.lora is None:
                raise ValueError("monitor.generate scores adapters of the base: set it to null, lora is null")
        if harness.is_stock(self.task) and self.evaluate:
            raise ValueError(
                "midalign eval scores midalign's tasks: set evaluate=false, and score with "
                "lm_eval --model hf --model_args pretrained=BASE,peft=ADAPTER --tasks TASK"
            )
        if self.labelled_share is not None and harness.is_stock(self.task):
            raise ValueError("labelled_share needs the item ids of midalign's tasks: set it to null")
        if self.load_in_4bit and self.lora is None:
            raise ValueError("a base in 4 bits cannot be trained itself: lora is null")
        return self

    def align_of(self, arm: str) -> Align | None:
        """Return the alignment settings of an arm, or None if it trains only the task."""
        changes = self.arms[arm]
        return None if changes is None else Align.model_validate({**self.align.model_dump(), **changes})

    @property
    def base_name(self) -> str:
        """Name of the base in records. For a local folder, its name without the path."""
        folder = Path(self.base).expanduser()
        return folder.resolve().name if folder.is_dir() else self.base

    @property
    def stops_early(self) -> bool:
        """True if early stopping chooses the weights."""
        return self.monitor is not None and self.monitor.stop_on is not None

    @property
    def keys_beside_weights(self) -> set[str]:
        """Keys that are not among the settings shared by all arms.

        They are BESIDE_WEIGHTS, `align`, `arms`, and `monitor` without early stopping.
        """
        return {*BESIDE_WEIGHTS, "align", "arms", *([] if self.stops_early else ["monitor"])}

    def digest(self, arm: str) -> str:
        """Return the sha256 of everything that determines an arm's weights.

        Output folder, seeds, other arms and notes are not part of it.
        """
        return self._digest_with(self.align_of(arm))

    def reference(self, arm: str) -> RecipeRef:
        """Return the reference to the recipe in manifests and records."""
        return RecipeRef(name=self.name, digest=self.digest(arm), baseline=self._digest_with(None))

    def _digest_with(self, align: Align | None) -> str:
        decides = self.model_dump(mode="json", exclude=self.keys_beside_weights | _unset(self))
        decides["base"] = self.base_name
        if align is not None:
            decides["align"] = align.model_dump(mode="json", exclude=_unset(align))
            decides["align"]["pairs"] = pairs_identity(align.pairs, self.aligned)
        elif self.stops_early:  # the measure may depend on the held-out pairs and the layer
            held_out = pairs_identity(self.align.pairs, self.aligned), self.align.held_out
            decides["held_out"] = *held_out, self.align.layer
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _unset(section: RecipeSection) -> set[str]:
    """Return the keys at their default. Excluding them keeps old digests valid when a key is added."""
    fields = type(section).model_fields.items()
    return {
        name for name, field in fields if not field.is_required() and getattr(section, name) == field.default
    }


def shipped_recipes() -> list[str]:
    """Return the names of the recipes in the package."""
    return shipped_names("recipes")


def load_recipe(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe by name or path, over its preset, with `key=value` overrides (`align.layer=4`).

    Raises RecipeError for wrong types and, with the nearest valid names, for an unknown recipe, key or
    preset.
    """
    values = _read_values(recipe)
    for override in overrides:
        _apply_override(values, override)
    preset = values.pop("preset", "default")
    values = _merge_values(_preset_values(preset), values)
    values.setdefault("output", f"runs/{values.get('name', 'unnamed')}")
    try:
        loaded = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_explain(recipe, error)) from error
    # The task of a user's own data is named after the content of its file, so that the path does not count.
    return loaded.model_copy(update={"task": harness.group_name(loaded.task)})


def _read_values(recipe: str) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RecipeError(
                f"No recipe file {recipe}. Recipes in the package: {', '.join(shipped_recipes())}"
            )
        text = path.read_text("utf-8")
    elif recipe in shipped_recipes():
        text = shipped_text("recipes", recipe)
    else:
        raise RecipeError(
            f"No recipe {recipe!r}.{nearest(recipe, shipped_recipes())} "
            f"In the package: {', '.join(shipped_recipes())}; your own: midalign-train PATH.yaml"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{recipe} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{recipe} has no keys. Expected at least name, base, task, supervised")
    return values


def _preset_values(name: str) -> dict[str, Any]:
    presets = shipped_names("presets")
    if name not in presets:
        raise RecipeError(f"No preset {name!r}. Expected one of {', '.join(presets)}")
    values: dict[str, Any] = yaml.safe_load(shipped_text("presets", name))
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Apply `key=value` in place. Dots descend, values are YAML, and mappings are merged."""
    key, sign, text = override.partition("=")
    if not sign:
        raise RecipeError(f"{override!r} is not an override. Expected key=value, such as updates=100")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{override!r}: {parent} has no nested keys")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{override!r}: the value is not YAML: {reason}") from error
    values.update(_merge_values(values, {last: value}))


def _merge_values(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        # The arms of a recipe replace those of a preset, since they are names and not settings.
        deeper = key != "arms" and isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge_values(merged[key], value) if deeper else value
    return merged


def _explain(recipe: str, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            *parents, key = problem["loc"]
            # pydantic gives no location for the settings of an arm.
            known = _keys(parents) if parents else [*Recipe.model_fields, *Align.model_fields]
            lines.append(f"unknown key {where}.{nearest(str(key), known)}")
        elif problem["type"] == "missing":
            lines.append(f"{where} is missing")
        else:
            value = "" if problem["type"] == "value_error" else f", found {problem['input']!r}"
            lines.append(f"{where or 'the recipe'}: {problem['msg'].removeprefix('Value error, ')}{value}")
    return "\n  ".join([f"recipe {recipe}:", *lines])


def _keys(parents: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for parent in parents:
        kind = model.model_fields[str(parent)].annotation
        model = next(member for member in (kind, *get_args(kind)) if isinstance(member, type))
    return list(model.model_fields)
