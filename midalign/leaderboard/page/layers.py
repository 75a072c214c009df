"""Layer curves of the analyses next to a board, as `midalign analyze` writes them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from midalign.errors import MidalignError

FOLDER = "analysis"
"""Folder of analyses, next to the board's README.md."""
TABLE = "alignment.parquet"
_ABOUT = b"midalign"
_CURVES = {"margin": "margin", "centred": "centred cosine", "mexa": "MEXA"}
"""Measures that are plotted, with their titles."""


def read_layer_curves(output: Path) -> list[dict[str, Any]]:
    """Return the means over all pairs of languages by layer, one entry per analysis, by folder name.

    Raises MidalignError for a table that cannot be read.
    """
    return [_read(path) for path in sorted((output / FOLDER).glob(f"*/{TABLE}"))]


def _read(path: Path) -> dict[str, Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        about = json.loads(table.schema.metadata[_ABOUT])
        layers = table["layer"].to_numpy()
        curves = {title: list(_means(layers, table[name].to_numpy())) for name, title in _CURVES.items()}
        base, adapter, *_ = about["digests"]
        return {
            "name": path.parent.name,
            "model": about["model"],
            "base": base,
            "adapter": adapter,
            "languages": len(about["languages"]),
            "sentences": about["count"],
            "curves": curves,
        }
    except (pyarrow.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise MidalignError(
            f"{path} is not a table of midalign analyze ({type(error).__name__}: {error}). "
            f"Remove it, or analyse the model again"
        ) from error


def _means(layers: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, float]]:
    """Yield each layer with the mean of its values."""
    for layer in np.unique(layers):
        yield int(layer), float(np.nanmean(values[layers == layer]))
