"""MASSIVE as its publisher wrote it, without our reader."""

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from midalign.languages import languages


@pytest.fixture(scope="session")
def massive_rows(shared_data: Path) -> Callable[[str, int | None], list[dict[str, str]]]:
    """The first rows of a language's file, all partitions."""

    def read(language: str, limit: int | None) -> list[dict[str, str]]:
        path = shared_data / "massive" / "1.1" / "data" / f"{languages()[language].codes['massive']}.jsonl.xz"
        with lzma.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line, _ in zip(lines, range(limit or 10**9), strict=False)]

    return read
