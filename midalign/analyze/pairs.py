"""All pairs of languages at every layer, as one table."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign import adapter as adapters
from midalign import bases
from midalign.align.measures import RETRIEVALS, SYMMETRIC, further_translations, measures, repeated_sentences
from midalign.analyze.devices import Report, share
from midalign.analyze.states import Store
from midalign.errors import DataError
from midalign.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

MEASURES = (*RETRIEVALS, *SYMMETRIC)

ROOM = 1 << 23
"""Similarities in memory at a time: 64 MB a matrix, of which there are about ten."""

Matrices = dict[str, np.ndarray]
"""By measure (languages, languages) fp32, from row to column; the diagonal is NaN."""


def layers(base: str, asked: str) -> list[int]:
    """Return block numbers, such as of `4,8`. The default is all, embeddings included.

    Raises DataError for a layer that the base lacks, and BaseModelError.
    """
    depth = adapters.base_config(bases.resolve(base)).get_text_config().num_hidden_layers
    numbers = [one.strip() for one in asked.split(",") if one.strip()]
    wrong = next((one for one in numbers if not one.isdecimal() or int(one) > depth), None)
    if wrong is not None:
        raise DataError(f"{base} has no layer {wrong}: it has {depth} blocks, so 0 to {depth}, such as 4,8")
    return sorted({int(one) for one in numbers}) or list(range(depth + 1))


def by_layer(
    store: Store, layers: Sequence[int], folder: Path, devices: Sequence[str], report: Report
) -> dict[int, Matrices]:
    """Return every measure of every directed pair at some layers. Those in `folder` are not computed again.

    Raises EngineError if one of several devices fails.
    """
    names = "".join(str(store.path(code).name) for code in store.sentences)
    key = hashlib.sha256(f"fp64, all translations {names}".encode()).hexdigest()[:16]
    paths = {layer: folder / f"layer-{layer}-{key}.npz" for layer in layers}
    missing = [(layer, path) for layer, path in paths.items() if not path.is_file()]
    there = len(layers) - len(missing)
    share(
        partial(_compare, store),
        missing,
        devices,
        lambda done, _: report(there + done, len(layers)),
    )
    found = {}
    for layer, path in paths.items():
        with np.load(path) as file:
            found[layer] = {name: file[name] for name in MEASURES}
    return found


def _compare(store: Store, layers: Sequence[tuple[int, Path]]) -> Iterator[None]:
    """Write the measures of some layers into files."""
    from midalign.device import device, keep_freed_memory

    keep_freed_memory()
    place = "cpu" if device() == "mps" else device()  # Apple's GPUs have no fp64
    for layer, path in layers:
        _write(path, of_layer(store.layer(layer).to(place), list(store.sentences.values())))
        yield


def of_layer(states: "Tensor", texts: Sequence[Sequence[str]] = ()) -> Matrices:
    """Return the measures of (languages, sentences, hidden) states.

    `texts` are the sentences by language: all translations of one that is repeated are right. Without them no
    sentence is.
    """
    import torch

    count, sentences = states.shape[:2]
    again = [repeated_sentences(lines) for lines in texts]

    def further(one: int, others: range) -> "Tensor":
        places = [
            (place, *rows)
            for place, other in enumerate(others if texts else ())
            for rows in further_translations(texts[one], texts[other], again[one], again[other])
        ]
        return torch.tensor(places, dtype=torch.long).reshape(-1, 3).T

    found = {name: np.full((count, count), np.nan, np.float32) for name in MEASURES}
    at_once = max(1, ROOM // sentences**2)
    for one in range(count - 1):
        for start in range(one + 1, count, at_once):
            others = slice(start, min(start + at_once, count))
            right = further(one, range(others.start, others.stop))
            measured = measures(states[one], states[others], right)
            own = {name: value.cpu().numpy() for name, value in measured.items()}
            for name, matrix in found.items():
                matrix[one, others] = own[name]
                matrix[others, one] = own[name if name in SYMMETRIC else f"{name}_back"]
    return found


def _write(path: Path, matrices: Matrices) -> None:
    import io

    file = io.BytesIO()
    content: dict[str, Any] = {**matrices}
    np.savez(file, **content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, file.getvalue())


def table(found: dict[int, Matrices], codes: Sequence[str]) -> Any:
    """Return a pyarrow table with a row per layer and directed pair, and a column per measure."""
    import pyarrow

    rows, columns = np.nonzero(~np.eye(len(codes), dtype=bool))
    names = np.array(codes)
    layers = np.repeat(np.array(list(found), np.int32), len(rows))
    content: dict[str, Any] = {
        "layer": layers,
        "source": np.tile(names[rows], len(found)),
        "target": np.tile(names[columns], len(found)),
    }
    for name in MEASURES:
        content[name] = np.concatenate([matrices[name][rows, columns] for matrices in found.values()])
    return pyarrow.table(content)
