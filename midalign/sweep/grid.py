"""The file of a sweep."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from midalign.errors import RecipeError, first_problem, nearest
from midalign.shipped import shipped_names, shipped_text


class Grid(BaseModel):
    """Keys of a sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: str
    """Name of a recipe in the package, or a path."""
    changes: dict[str, Any] = {}
    """Recipe keys for all points. Dots descend."""
    grid: dict[str, list[Any]] = {}
    """Values of recipe keys. Each combination is a point."""
    points: list[dict[str, Any]] = []
    """Further points, each with the keys that it changes."""
    merged: list[Annotated[float, Field(gt=0)]] = []
    """Weights of an adapter of alignment alone that is added to the baseline. Each weight is a point."""

    @field_validator("merged")
    @classmethod
    def _distinct(cls, merged: list[float]) -> list[float]:
        if len(set(merged)) < len(merged):
            raise ValueError("duplicate weights")
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
            f"No sweep {name!r}.{nearest(name, shipped)} In the package: {', '.join(shipped)}. "
            f"Your own: midalign sweep PATH.yaml"
        )
    try:
        return Grid.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {error}") from error
    except ValidationError as error:
        unknown = [
            str(problem["loc"][-1]) for problem in error.errors() if problem["type"] == "extra_forbidden"
        ]
        known = nearest(unknown[0], Grid.model_fields) if unknown else ""
        raise RecipeError(f"sweep {name}: {first_problem(error)}.{known}") from error
