"""Tokenizers of bases, and those that adapters bring along, compared with that of their base."""

import json
from pathlib import Path
from typing import Any

from midalign.errors import AdapterError, BaseModelError, first_line

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""One of them makes a folder a tokenizer's."""

TEMPLATE = "chat_template.jinja"


def load_tokenizer(base: str) -> Any:
    """Return the tokenizer of a base, by folder or hub id; raises BaseModelError if there is none."""
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
    """Reject an adapter whose tokenizer is not the base's, or whose chat template is not if `chat` is set.

    The base renders and tokenizes prompts, so that they would differ from those of the adapter's training.
    Raises AdapterError.
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
            found = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise AdapterError(
                f"The adapter {folder} brings a tokenizer that cannot be loaded: {first_line(error)} "
                f"Remove its tokenizer files if the adapter was trained with the tokenizer of {base}"
            ) from error
        template = found.chat_template
        differences = _differences(found, expected)
    if chat and template != expected.chat_template:
        differences.append("chat template")
    if differences:
        raise AdapterError(
            f"The adapter {folder} brings a tokenizer that differs from that of {base}: "
            f"{', '.join(differences)}. Prompts are made by the base's tokenizer, and would not be those "
            f"that the adapter was trained on. Give a copy of the base with the adapter's tokenizer files in "
            f"it as --base, or remove these files from the adapter if it was trained without them"
        )


def _differences(found: Any, expected: Any) -> list[str]:
    """Return the names of what two tokenizers do not have in common."""
    one, other = _content(found), _content(expected)
    differences = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
    for key in ("bos_token_id", "eos_token_id"):
        if getattr(found, key) != getattr(expected, key):
            differences.append(key)
    return differences


def _content(tokenizer: Any) -> dict[str, Any]:
    """Return what decides a text's ids, by the names of tokenizer.json; settings of batches are left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {"vocabulary": tokenizer.get_vocab()}
    content: dict[str, Any] = json.loads(backend.to_str())
    return {key: value for key, value in content.items() if key not in ("padding", "truncation", "version")}
