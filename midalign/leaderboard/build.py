"""From a folder of records to a folder with README.md, leaderboard.json and plots."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from midalign.errors import MidalignError
from midalign.files import write_atomically
from midalign.leaderboard import plots
from midalign.leaderboard.compare import DRAWS, LEVEL, Model, compare, compare_by_comet, language_sets
from midalign.leaderboard.load import load
from midalign.leaderboard.sections import resource_of, sections
from midalign.leaderboard.tables import MARK, Part, page

DIGITS = 6


def build(results: Path, output: Path) -> list[Part]:
    """Write the board of `results/*.json` into `output` and return its sections.

    The same records give the same bytes. Raises RecordError for records that do not hold or clash, and
    MidalignError rather than replace a README.md that it did not write.
    """
    readme = output / "README.md"
    if readme.is_file() and not readme.read_text("utf-8", errors="replace").startswith(MARK):
        raise MidalignError(
            f"{readme} was not written by midalign leaderboard build and is left alone; "
            f"choose another folder with --output"
        )
    parts = _parts(results)
    pictures = {part.plot: plots.png(part) for part in parts}
    (output / "plots").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_atomically(output / name, picture)
    write_atomically(output / "leaderboard.json", _json(parts).encode())
    write_atomically(readme, page(parts).encode())
    return parts


def _parts(results: Path) -> list[Part]:
    parts: list[Part] = []
    for section in sections(load(results)):
        entry = section.first.record
        sample = f"{entry.sample.split}-{entry.sample.limit or 'full'}"
        regime = "" if section.regime == "free" else f"-{section.regime}"
        # A base may be a path or a hub id; its last part says enough in a file name.
        slug = re.sub(
            r"[^A-Za-z0-9._-]+", "-", f"{section.group}-{Path(entry.base.name).name}-{sample}{regime}"
        )
        taken = sum(part.slug == slug or part.slug.startswith(f"{slug}-v") for part in parts)
        slug = f"{slug}-v{taken + 1}" if taken else slug
        parts.append(Part(slug, section, *compare(section), compare_by_comet(section)))
    return parts


def _json(parts: Sequence[Part]) -> str:
    board = {
        "schema_version": 2,
        "unit": "shares between 0 and 1, differences and gaps in the same unit",
        "interval": {"level": LEVEL, "draws": DRAWS, "method": "paired percentile bootstrap over items"},
        "sections": [_section(part) for part in parts],
    }
    return json.dumps(_rounded(board), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _section(part: Part) -> dict[str, Any]:
    section, entry = part.section, part.section.first.record
    return {
        "group": section.group,
        "headline": section.scorer.HEADLINE,
        "base": {
            **entry.base.model_dump(exclude={"tokenizer"}),
            **({"tokenizer": section.tokenizer} if section.tokenizer else {}),
        },
        "sample": entry.sample.model_dump(),
        "decoding": entry.decoding,
        "sets": language_sets(section),
        "languages": {
            code: {
                "role": section.role(code),
                "resource": resource_of(code),
                "repeated": section.repeated(code),
                **section.first.task(code).model_dump(
                    include={"n", "version", "signatures", "max_gen_toks", "data_digest", "prompt_digest"}
                ),
            }
            for code in section.languages
        },
        "models": [_model(model) for model in part.models],
        "differences": [asdict(difference) for difference in part.differences],
        "plot": part.plot,
        **({"comet": asdict(part.comet)} if part.comet else {}),
    }


def _model(model: Model) -> dict[str, Any]:
    """Return a row's figures, without a training dtype that is not known: so boards of older records stay."""
    figures = asdict(model)
    if model.training_dtype is None:
        del figures["training_dtype"]
    return figures


def _rounded(value: Any) -> Any:
    """Return the same structure with floats rounded to DIGITS decimals and None for NaN."""
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return round(value, DIGITS) + 0.0  # + 0.0: no minus zero
    if isinstance(value, dict):
        return {key: _rounded(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(member) for member in value]
    return value
