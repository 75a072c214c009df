"""Base models: the bundled one, `mini`, and how folders and hub ids are found and loaded."""

import re
from pathlib import Path
from typing import Any

from midalign.errors import BaseModelError, first_line, nearest

BUNDLED = Path(__file__).parent
NAMES = ("mini",)
EARLIER_VERSIONS = {
    "0221e2d09458323a794bbdbe5c6c72625b16d06c65f4fc84a1d94c928e987ea4": "mini of 11 million tokens"
}
"""Digests of bundled bases that were replaced: records on them stay valid."""


def resolve(name: str) -> str:
    """Return what transformers, peft and vLLM load for `name`: a folder or a hub id.

    A bundled name wins over a folder of the same name: `./mini` is always the folder.

    Raises:
        BaseModelError: a folder without a model, a path that does not exist, a name close to a bundled one.
    """
    folder = BUNDLED / name if name in NAMES else Path(name).expanduser()
    if name and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BaseModelError(
                f"{folder} has no config.json, so it is no model in transformers' format. "
                "Give the folder that `save_pretrained` wrote."
            )
        return str(folder)
    close = nearest(name, NAMES)
    if name in NAMES or close or not _may_be_hub_id(name):
        raise BaseModelError(
            f"No base model {name!r}: neither a bundled one ({', '.join(NAMES)}) nor a folder here "
            f"nor a hub id such as google/gemma-3-270m.{close}"
        )
    return name


def _may_be_hub_id(name: str) -> bool:
    """Return whether `name` looks like `owner/name`, or is one word as for the hub's oldest models (gpt2)."""
    parts = name.split("/")
    return len(parts) <= 2 and all(part and part[0] not in ".~" and " " not in part for part in parts)


def hub_id(name: str) -> str | None:
    """Return the hub id of a base, None if it is not known, as for a folder outside the hub's cache.

    `_name_or_path` in a folder's config.json does not tell: after fine-tuning, it often names the model that
    the training started from.
    """
    if name in NAMES:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    cached = re.search(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/[0-9a-f]+$", folder.absolute().as_posix())
    return f"{cached[1]}/{cached[2]}" if cached else None


def stated_licence(folder: Path) -> str | None:
    """Return the licence in the front matter of a model card, None without a card or a licence."""
    import yaml
    from huggingface_hub import metadata_load

    try:
        licence = (metadata_load(folder / "README.md") or {}).get("license")
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return licence if isinstance(licence, str) else None


def load_model_and_tokenizer(base: str, **options: Any) -> tuple[Any, Any]:
    """Return a base and its tokenizer, by folder or hub id, as transformers loads them with `options`.

    Raises BaseModelError if one of the two cannot be loaded.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        return AutoModelForCausalLM.from_pretrained(base, **options), tokenizer
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"The base {base!r} cannot be loaded: {first_line(error)} "
            f"Give a folder with config.json, weights and tokenizer, a hub id, or mini for the bundled base"
        ) from error
