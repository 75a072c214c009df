"""Tokenizers of bases, compared with those in the folders of adapters."""

import json
from pathlib import Path
from typing import Any

from midalign.errors import AdapterError, BaseModelError, first_line

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""A folder with one of these files has a tokenizer."""

TEMPLATE = "chat_template.jinja"


def load_tokenizer(base: str) -> Any:
    """Return the tokenizer of a base, by folder or hub id. Raises BaseModelError if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"The tokenizer of {base} cannot be loaded: {first_line(error).rstrip(' .:')}. Expected "
            f"tokenizer.json and tokenizer_config.json beside config.json. Copy them from the model that "
            f"it was trained from"
        ) from error


def check_tokenizer(folder: Path, base: str, *, chat: bool) -> None:
    """Raise AdapterError if tokenizer, or with `chat` the chat template, differ from those of the base.

    The base renders and tokenizes prompts, so they would differ from those of the adapter's training.
    """
    from transformers import AutoTokenizer

    has_tokenizer = any((folder / name).is_file() for name in FILES)
    if not has_tokenizer and not (folder / TEMPLATE).is_file():
        return
    expected = load_tokenizer(base)
    if not has_tokenizer:
        template: Any = (folder / TEMPLATE).read_text("utf-8")
        differences = []
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise AdapterError(
                f"The adapter {folder} has a tokenizer that cannot be loaded: {first_line(error)} "
                f"Remove its tokenizer files if the adapter was trained with the tokenizer of {base}"
            ) from error
        template = tokenizer.chat_template
        differences = _differences(tokenizer, expected)
    if chat and template != expected.chat_template:
        differences.append("chat template")
    if differences:
        raise AdapterError(
            f"The adapter {folder} has a tokenizer that differs from that of {base}: "
            f"{', '.join(differences)}. Prompts are made by the base's tokenizer, so they would differ "
            f"from those of the adapter's training. Copy the base, put the adapter's tokenizer files into "
            f"the copy and give it as --base, or remove these files if the adapter was trained without them"
        )


def _differences(tokenizer: Any, expected: Any) -> list[str]:
    """Return the keys in which two tokenizers differ."""
    ours, theirs = _content(tokenizer), _content(expected)
    differences = [key for key in sorted(ours.keys() | theirs.keys()) if ours.get(key) != theirs.get(key)]
    for key in ("bos_token_id", "eos_token_id"):
        if getattr(tokenizer, key) != getattr(expected, key):
            differences.append(key)
    return differences


def _content(tokenizer: Any) -> dict[str, Any]:
    """Return what determines the ids of a text, by key of tokenizer.json, so without settings of batches."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"vocabulary": tokenizer.get_vocab()}
    content: dict[str, Any] = json.loads(backend.to_str())
    return {key: value for key, value in content.items() if key not in ("padding", "truncation", "version")}
