"""The page's models: rows of different sections that are the same model."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from midalign.leaderboard.section_figures import SectionFigures
from midalign.leaderboard.sections import BoardRow

BUCKETS = ((1e9, "under 1B"), (4e9, "1B to 4B"), (10e9, "4B to 10B"), (40e9, "10B to 40B"))
"""Upper bounds of the size buckets, in parameters."""
LARGEST = "40B and more"
UNKNOWN = "unknown"

_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])")


@dataclass
class PageModel:
    """A model of the page: one base, or one arm of a recipe, by one engine in one dtype."""

    key: str
    """Short digest that identifies the model in the page's addresses."""
    row: BoardRow
    title: str
    places: list[tuple[SectionFigures, int]] = field(default_factory=list)
    """Sections with the model, and its row there."""


def collect_models(parts: Sequence[SectionFigures]) -> list[PageModel]:
    """Return the models of all sections, in the order in which they first occur."""
    models: dict[str, PageModel] = {}
    for part in parts:
        for index, row in enumerate(part.section.rows):
            key = _key(row)
            model = models.setdefault(key, PageModel(key, row, model_title(row)))
            model.places.append((part, index))
    _distinguish(list(models.values()))
    return list(models.values())


def parameters_in_name(name: str) -> float | None:
    """Return the number of parameters that a base's name states: 270e6 for `gemma-3-270m`, None without."""
    matched = _SIZE.search(name)
    if matched is None:
        return None
    return float(matched[1]) * (1e9 if matched[2] in "bB" else 1e6)


def size_bucket(parameters: float | None) -> str:
    """Return the size bucket of a number of parameters."""
    if parameters is None:
        return UNKNOWN
    return next((name for bound, name in BUCKETS if parameters < bound), LARGEST)


def _key(row: BoardRow) -> str:
    """Return the digest of what makes two rows the same model."""
    entry = row.runs[0].record
    if row.arm == "base":
        made: list[str | None] = []
    elif entry.recipe:
        made = [entry.recipe.name, entry.recipe.digest, row.training_dtype]
    else:
        made = [entry.name, entry.adapter.digest if entry.adapter else None]
    parts = [entry.base.name, entry.base.digest, row.arm, *row.engine, *made]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def model_title(row: BoardRow) -> str:
    """Return the name of the base, or recipe and arm, or record and arm without a recipe."""
    entry = row.runs[0].record
    if row.arm == "base":
        return entry.base.name
    name = entry.recipe.name if entry.recipe else entry.name
    return f"{name}: {row.arm}"


def _distinguish(models: Sequence[PageModel]) -> None:
    """Add engine and dtype to titles that occur twice, then the key to those that still do."""
    for addition in (lambda model: " ".join(model.row.engine).strip(), lambda model: model.key[:6]):
        counted = Counter(model.title for model in models)
        for model in models:
            if counted[model.title] > 1:
                model.title = f"{model.title} ({addition(model)})"
