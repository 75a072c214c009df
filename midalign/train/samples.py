"""Tokenized samples, and their place on disk: what one run has rendered the next one reads."""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from midalign.align.sentences import added_tokens, sink_tokens
from midalign.data import cache
from midalign.errors import DataError, RecipeError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Token ids of a prompt and of what the model should answer, its end-of-sequence token included."""

    prompt: list[int]
    target: list[int]
    cut: int = 0
    """Tokens of the prompt's beginning that found no room."""


class Tokens:
    """Text to ids exactly as the engine makes them, cut to the recipe's length."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    @cached_property
    def added(self) -> tuple[int, int]:
        """Numbers of tokens that the tokenizer writes before and after a sentence by itself."""
        return added_tokens(self.tokenizer)

    @cached_property
    def sink(self) -> int:
        """Number of tokens at a sentence's beginning that its mean leaves out."""
        return sink_tokens(self.tokenizer)

    def sentence(self, text: str) -> list[int]:
        """Return the ids of a plain sentence, with the tokens that the tokenizer writes before it only."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids[: min(len(ids) - self.added[1], self.max_tokens)]

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a rendered prompt as lm-eval makes them."""
        # A chat template has written BOS into the text already.
        special = not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    def sample(self, prompt: str, target: str) -> Sample:
        """Tokenize the prompt as lm-eval does, and the target as its continuation, then end of sequence."""
        tokenizer = self.tokenizer
        before, whole = self.prompt(prompt), self.prompt(prompt + target)
        if tokenizer.eos_token_id in whole[-1:]:
            whole = whole[:-1]
        if whole[: len(before)] != before:  # the boundary merges: keep the prompt as the engine sends it
            whole = before + tokenizer(target, add_special_tokens=False)["input_ids"]
        after = [*whole[len(before) :], tokenizer.eos_token_id]
        room = self.max_tokens - len(after)
        if room < 1:
            raise RecipeError(
                f"an answer takes {len(after)} tokens, and max_tokens is {self.max_tokens}: "
                f"{target[:200]!r}. Set max_tokens={2 * len(after)} or more"
            )
        return Sample(before[-room:], after, cut=max(len(before) - room, 0))


def digest(parts: Iterable[Any]) -> str:
    """Return the sha256 of values that JSON can encode, or else `str`."""
    found = hashlib.sha256()
    for part in parts:
        found.update(json.dumps(part, sort_keys=True, default=str).encode())
        found.update(b"\n")
    return found.hexdigest()


def path(key: str) -> Path:
    """Return where the samples of a digest are stored."""
    return cache.folder() / "samples" / f"{key[:32]}.npz"


def read(key: str) -> dict[int, Sample]:
    """Return samples by position. There are none if the file is missing or damaged."""
    try:
        with np.load(path(key)) as file:
            ids, table = file["ids"].tolist(), file["table"].tolist()
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return {}
    found, start = {}, 0
    for position, prompt, target, cut in table:
        middle, end = start + prompt, start + prompt + target
        found[position] = Sample(ids[start:middle], ids[middle:end], cut)
        start = end
    return found


def write(key: str, samples: Mapping[int, Sample]) -> None:
    """Keep samples by position, whole or not at all; a cache that cannot be written is a warning."""
    table = [(p, len(s.prompt), len(s.target), s.cut) for p, s in samples.items()]
    ids = [token for s in samples.values() for token in (*s.prompt, *s.target)]
    file = io.BytesIO()
    np.savez(file, ids=np.array(ids, np.int32), table=np.array(table, np.int64).reshape(-1, 4))
    try:
        cache.write(path(key), file.getvalue())
    except (OSError, DataError) as error:
        log.warning("The samples are not kept for the next run: %s", error)
