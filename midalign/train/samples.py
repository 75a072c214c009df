"""Tokenized samples, and their place on disk: what one run has rendered the next one reads."""

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midalign.data import cache
from midalign.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """Token ids of a prompt and of what the model should answer, its end-of-sequence token included."""

    prompt: list[int]
    target: list[int]
    cut: int = 0
    """Tokens of the prompt's beginning that found no room."""


def digest(parts: Iterable[Any]) -> str:
    """Return the sha256 of values that JSON can encode, or else `str`."""
    found = hashlib.sha256()
    for part in parts:
        found.update(json.dumps(part, sort_keys=True, default=str).encode())
        found.update(b"\n")
    return found.hexdigest()


def path(key: str) -> Path:
    """Return where the samples of a digest are stored."""
    return cache.cache_folder() / "samples" / f"{key[:32]}.npz"


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
        cache.write_to_cache(path(key), file.getvalue())
    except (OSError, DataError) as error:
        log.warning("The samples are not kept for the next run: %s", error)
