"""The file of a sweep: which recipe, and what its points change."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from midalign.errors import RecipeError, nearest
from midalign.shipped import shipped_names, shipped_text


class Grid(BaseModel):
    """`midalign sweep`'s file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: str
    """One of the package, or a path."""
    changes: dict[str, Any] = {}
    """Recipe keys, dots descend, that hold for all points."""
    grid: dict[str, list[Any]] = {}
    """Values of recipe keys: a point for each combination."""
    points: list[dict[str, Any]] = []
    """Further points, each the keys that it changes."""
    merged: list[Annotated[float, Field(gt=0)]] = []
    """How much of an adapter of alignment alone is added to the baseline of its seed: a point for each."""

    @field_validator("merged")
    @classmethod
    def _distinct(cls, merged: list[float]) -> list[float]:
        if len(set(merged)) < len(merged):
            raise ValueError("a weight stands twice")
        return merged


def read_grid(name: str) -> Grid:
    """Read a sweep of the package by name, or a YAML file. Raises RecipeError."""
    path = Path(name)
    shipped = shipped_names("sweeps")
    if name in shipped:
        text = shipped_text("sweeps", name)
    elif path.is_file():
        text = path.read_text("utf-8")
    else:
        raise RecipeError(
            f"No sweep {name!r}.{nearest(name, shipped)} In the package: {', '.join(shipped)}; "
            f"your own: midalign sweep PATH.yaml"
        )
    try:
        return Grid.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the file"
        known = nearest(where, Grid.model_fields) if problem["type"] == "extra_forbidden" else ""
        raise RecipeError(f"sweep {name}: {where}: {problem['msg']}.{known}") from None
