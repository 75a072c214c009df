"""Tokenized samples and their disk cache."""

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
class TokenizedSample:
    """Token ids of a prompt and of its answer, which includes the end-of-sequence token."""

    prompt: list[int]
    target: list[int]
    cut: int = 0
    """Number of tokens truncated on the left of the prompt."""


class SampleTokenizer:
    """Tokenizes prompts as the engines do, and truncates to the recipe's length."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens

    @cached_property
    def added(self) -> tuple[int, int]:
        """Numbers of special tokens that the tokenizer adds before and after a sentence."""
        return added_tokens(self.tokenizer)

    @cached_property
    def sink(self) -> int:
        """Number of initial tokens that a sentence's mean excludes."""
        return sink_tokens(self.tokenizer)

    def sentence(self, text: str) -> list[int]:
        """Return the ids of a sentence, with the special tokens before it and without those after it."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids[: min(len(ids) - self.added[1], self.max_tokens)]

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a rendered prompt as lm-eval makes them."""
        # A chat template has written BOS into the text already.
        special = not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids

    def sample(self, prompt: str, target: str) -> TokenizedSample:
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
        return TokenizedSample(before[-room:], after, cut=max(len(before) - room, 0))


def samples_digest(parts: Iterable[Any]) -> str:
    """Return the sha256 of values, encoded as JSON or by `str`."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def samples_path(key: str) -> Path:
    """Return where the samples of a digest are stored."""
    return cache.cache_folder() / "samples" / f"{key[:32]}.npz"


def read_samples(key: str) -> dict[int, TokenizedSample]:
    """Return the cached samples by position, none if the file is missing or damaged."""
    try:
        with np.load(samples_path(key)) as file:
            ids, table = file["ids"].tolist(), file["table"].tolist()
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return {}
    samples, start = {}, 0
    for position, prompt, target, cut in table:
        middle, end = start + prompt, start + prompt + target
        samples[position] = TokenizedSample(ids[start:middle], ids[middle:end], cut)
        start = end
    return samples


def write_samples(key: str, samples: Mapping[int, TokenizedSample]) -> None:
    """Write samples by position to the cache, atomically. Warn if that fails."""
    table = [(p, len(s.prompt), len(s.target), s.cut) for p, s in samples.items()]
    ids = [token for s in samples.values() for token in (*s.prompt, *s.target)]
    file = io.BytesIO()
    np.savez(file, ids=np.array(ids, np.int32), table=np.array(table, np.int64).reshape(-1, 4))
    try:
        cache.write_to_cache(samples_path(key), file.getvalue())
    except (OSError, DataError) as error:
        log.warning("Samples were not cached for the next run: %s", error)
