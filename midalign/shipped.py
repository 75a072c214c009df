"""The YAML files of the package: recipes, their presets, and sweeps."""

from importlib.resources import files
from importlib.resources.abc import Traversable

FOLDERS = {"recipes": "recipes", "presets": "recipes/presets", "sweeps": "sweeps"}
"""Kind of file -> folder in the package."""


def shipped_names(kind: str) -> list[str]:
    """Return the names of the files of a kind, without `.yaml`, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder(kind).iterdir() if file.is_file())


def shipped_text(kind: str, name: str) -> str:
    """Return the content of one of `shipped_names(kind)`."""
    return (_folder(kind) / f"{name}.yaml").read_text("utf-8")


def shipped_summary(kind: str, name: str) -> str:
    """Return the first sentence of the comment that a file begins with."""
    comment = []
    for line in shipped_text(kind, name).splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].removesuffix(".")


def _folder(kind: str) -> Traversable:
    return files("midalign") / FOLDERS[kind]
