"""All pairs of languages at every layer, as one table."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign import adapter as adapters
from midalign import bases
from midalign.align.measures import (
    RETRIEVALS,
    SYMMETRIC,
    further_translations,
    measure_retrieval,
    repeated_sentences,
)
from midalign.analyze.devices import DoneCallback, share_among_devices
from midalign.analyze.states import StateStore
from midalign.errors import DataError
from midalign.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

MEASURES = (*RETRIEVALS, *SYMMETRIC)

ROOM = 1 << 23
"""Similarities in memory at a time: 64 MB per matrix, of which there are about ten."""

Matrices = dict[str, np.ndarray]
"""Measure -> (languages, languages) fp32, from row to column. The diagonal is NaN."""


def layer_numbers(base: str, asked: str) -> list[int]:
    """Return the layer numbers of a list such as `4,8`, or all layers, embeddings included, if it is empty.

    Raises DataError for a layer that the base lacks, and BaseModelError.
    """
    depth = adapters.base_config(bases.resolve(base)).get_text_config().num_hidden_layers
    numbers = [number.strip() for number in asked.split(",") if number.strip()]
    wrong = next((number for number in numbers if not number.isdecimal() or int(number) > depth), None)
    if wrong is not None:
        raise DataError(f"{base} has no layer {wrong}: it has {depth} blocks, so 0 to {depth}, such as 4,8")
    return sorted({int(number) for number in numbers}) or list(range(depth + 1))


def compare_layers(
    store: StateStore, layers: Sequence[int], folder: Path, devices: Sequence[str], report: DoneCallback
) -> dict[int, Matrices]:
    """Return every measure of every directed pair at the given layers. Those in `folder` are reused.

    Raises EngineError if one of several devices fails.
    """
    names = "".join(str(store.path(code).name) for code in store.sentences)
    key = hashlib.sha256(f"fp64, all translations {names}".encode()).hexdigest()[:16]
    paths = {layer: folder / f"layer-{layer}-{key}.npz" for layer in layers}
    missing = [(layer, path) for layer, path in paths.items() if not path.is_file()]
    finished = len(layers) - len(missing)
    share_among_devices(
        partial(_compare, store),
        missing,
        devices,
        lambda done, _: report(finished + done, len(layers)),
    )
    matrices = {}
    for layer, path in paths.items():
        with np.load(path) as file:
            matrices[layer] = {name: file[name] for name in MEASURES}
    return matrices


def _compare(store: StateStore, layers: Sequence[tuple[int, Path]]) -> Iterator[None]:
    """Write the measures of the given layers into files."""
    from midalign.device import device, keep_freed_memory

    keep_freed_memory()
    place = "cpu" if device() == "mps" else device()  # Apple's GPUs have no fp64
    for layer, path in layers:
        _write(path, measure_layer(store.layer(layer).to(place), list(store.sentences.values())))
        yield


def measure_layer(states: "Tensor", texts: Sequence[Sequence[str]] = ()) -> Matrices:
    """Return the measures of (languages, sentences, hidden) states.

    `texts` are the sentences by language. If a sentence is repeated, the translations of all its copies are
    right. Without texts, no sentence counts as repeated.
    """
    import torch

    count, sentences = states.shape[:2]
    repeated = [repeated_sentences(lines) for lines in texts]

    def further(language: int, others: range) -> "Tensor":
        places = [
            (place, *rows)
            for place, other in enumerate(others if texts else ())
            for rows in further_translations(
                texts[language], texts[other], repeated[language], repeated[other]
            )
        ]
        return torch.tensor(places, dtype=torch.long).reshape(-1, 3).T

    # Compare each language with all later ones, several at a time, and fill in both directions.
    matrices = {name: np.full((count, count), np.nan, np.float32) for name in MEASURES}
    at_once = max(1, ROOM // sentences**2)
    for language in range(count - 1):
        for start in range(language + 1, count, at_once):
            others = slice(start, min(start + at_once, count))
            right = further(language, range(others.start, others.stop))
            tensors = measure_retrieval(states[language], states[others], right)
            measured = {name: value.cpu().numpy() for name, value in tensors.items()}
            for name, matrix in matrices.items():
                matrix[language, others] = measured[name]
                matrix[others, language] = measured[name if name in SYMMETRIC else f"{name}_back"]
    return matrices


def _write(path: Path, matrices: Matrices) -> None:
    import io

    file = io.BytesIO()
    content: dict[str, Any] = {**matrices}
    np.savez(file, **content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, file.getvalue())


def pair_table(by_layer: dict[int, Matrices], codes: Sequence[str]) -> Any:
    """Return a pyarrow table with a row per layer and directed pair, and a column per measure."""
    import pyarrow

    rows, columns = np.nonzero(~np.eye(len(codes), dtype=bool))
    names = np.array(codes)
    layers = np.repeat(np.array(list(by_layer), np.int32), len(rows))
    content: dict[str, Any] = {
        "layer": layers,
        "source": np.tile(names[rows], len(by_layer)),
        "target": np.tile(names[columns], len(by_layer)),
    }
    for name in MEASURES:
        content[name] = np.concatenate([matrices[name][rows, columns] for matrices in by_layer.values()])
    return pyarrow.table(content)
