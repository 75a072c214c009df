"""What the table of all pairs says: by layer, by language, against another model, beside task scores."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign import record
from midalign.analyze.pairs import MEASURES, Matrices
from midalign.errors import DataError, RecordError
from midalign.languages import language as known

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = "margin"
"""What layers are compared by: retrieval by ratio margin, as in Liu and Niehues (2025)."""
SPREAD = (10, 90)
"""Percentiles over pairs."""


@dataclass(frozen=True)
class Layer:
    """Means of every measure after a number of blocks."""

    layer: int
    all_pairs: dict[str, float]
    with_english: dict[str, float]
    spread: tuple[float, float]
    """Of the headline over all pairs."""


def by_layer(found: dict[int, Matrices]) -> list[Layer]:
    """English is the first language of the matrices."""
    return [
        Layer(
            layer,
            {name: float(np.nanmean(matrices[name])) for name in MEASURES},
            {name: float(np.nanmean([matrices[name][0], matrices[name][:, 0]])) for name in MEASURES},
            (float(low), float(high)),
        )
        for layer, matrices in found.items()
        for low, high in [np.nanpercentile(matrices[HEADLINE], SPREAD)]
    ]


def recommended(layers: Sequence[Layer]) -> int:
    """Where most translations are found, the lowest of equals."""
    return max(layers, key=lambda one: (one.all_pairs[HEADLINE], -one.layer)).layer


def of_english(matrices: Matrices, codes: Sequence[str]) -> dict[str, float]:
    """Every other language's headline with English, mean of both directions."""
    both = (matrices[HEADLINE][0] + matrices[HEADLINE][:, 0]) / 2
    return {code: float(value) for code, value in zip(codes[1:], both[1:], strict=True)}


@dataclass(frozen=True)
class Correlation:
    """Of languages' alignment with their scores in a record."""

    name: str
    pearson: float
    languages: int


FEWEST = 4
"""Languages for a correlation."""


def correlations(aligned: dict[str, float], folder: Path, base_digest: str) -> list[Correlation]:
    """Pearson's r of `of_english` with the scores of each record of a base, over the languages of both.

    Raises RecordError where the folder has no record of the base, or none with enough languages.
    """
    paths = sorted(path for path in folder.glob(f"*{record.SUFFIX}"))
    found = []
    for path in paths:
        entry = record.read(path)
        if entry.base.digest != base_digest:
            continue
        scores = {task.language: next(iter(task.metrics.values())).value for task in entry.tasks.values()}
        shared = [code for code in aligned if code in scores]
        values = np.array([[aligned[code], scores[code]] for code in shared])
        if len(shared) >= FEWEST and values.std(axis=0).all():
            found.append(Correlation(entry.name, float(np.corrcoef(values.T)[0, 1]), len(shared)))
    if not found:
        raise RecordError(
            f"{folder} has no record of this base whose scores vary over {FEWEST} or more of the analysed "
            f"languages ({len(paths)} records there). Records are written by: midalign eval"
        )
    return found


def read(folder: Path) -> dict[int, float]:
    """Mean of the headline by layer of an earlier analysis; raises DataError where there is none."""
    import pyarrow.parquet

    path = folder / "alignment.parquet"
    if not path.is_file():
        raise DataError(f"No {path}. Analyse the other model first: midalign analyze MODEL --output {folder}")
    columns = pyarrow.parquet.read_table(path, columns=["layer", HEADLINE]).to_pydict()
    layers, values = np.array(columns["layer"]), np.array(columns[HEADLINE])
    return {int(layer): float(values[layers == layer].mean()) for layer in np.unique(layers)}


def curve(layers: Sequence[Layer], title: str, other: dict[int, float] | None) -> bytes:
    """Means by layer with the spread over pairs, as a PNG; `other` is the headline of another model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from midalign.leaderboard.plots import COLOURS, GREY

    numbers = [one.layer for one in layers]
    with plt.style.context("default"), plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
        low, high = zip(*(one.spread for one in layers), strict=True)
        axes.fill_between(numbers, _percent(low), _percent(high), color=COLOURS[0], alpha=0.15, linewidth=0)
        lines = {
            "margin, all pairs (band: 10th to 90th percentile)": [one.all_pairs["margin"] for one in layers],
            "margin, with English": [one.with_english["margin"] for one in layers],
            "centred cosine, all pairs": [one.all_pairs["centred"] for one in layers],
            "MEXA, with English": [one.with_english["mexa"] for one in layers],
        }
        for (label, values), colour in zip(lines.items(), COLOURS, strict=False):
            axes.plot(numbers, _percent(values), color=colour, marker="o", markersize=3, label=label)
        if other:
            values = _percent(list(other.values()))
            axes.plot(list(other), values, color=GREY, linestyle="--", label="margin, all pairs, the other")
        axes.axvline(recommended(layers), color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xlabel("blocks below the state (dotted: where most translations are found)")
        axes.set_ylabel("sentences that find their translation, %")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0, 100)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return _png(figure)


def heat_map(matrices: Matrices, codes: Sequence[str], title: str) -> bytes:
    """The headline from row to column, languages by family, script and code, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    order = sorted(
        range(len(codes)), key=lambda i: (known(codes[i]).branch, known(codes[i]).script, codes[i])
    )
    branches = [known(codes[i]).branch for i in order]
    size = max(4.5, 0.11 * len(codes) + 2)
    with plt.style.context("default"), plt.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
        values = 100 * matrices[HEADLINE][np.ix_(order, order)]
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, interpolation="nearest")
        small = 8 if len(codes) < 40 else 4
        labels = [codes[i] for i in order]
        axes.set_xticks(range(len(order)), labels, rotation=90, fontsize=small)
        axes.set_yticks(range(len(order)), labels, fontsize=small)
        for place in range(1, len(order)):
            if branches[place] != branches[place - 1]:
                axes.axhline(place - 0.5, color="white", linewidth=0.6)
                axes.axvline(place - 0.5, color="white", linewidth=0.6)
        axes.set_xlabel("finds among the sentences of")
        axes.set_title(f"{title}\nlanguages by family and script", fontsize=10)
        figure.colorbar(image, ax=axes, label="margin retrieval, %", shrink=0.6)
        return _png(figure)


def _percent(shares: Sequence[float]) -> list[float]:
    return [100 * share for share in shares]


def _png(figure: "Figure") -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def write(folder: Path, table: Any, plots: dict[str, bytes]) -> list[Path]:
    """`alignment.parquet`, `alignment.csv` and the plots."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    contents = {}
    for name, save in (
        ("alignment.parquet", pyarrow.parquet.write_table),
        ("alignment.csv", pyarrow.csv.write_csv),
    ):
        sink = pyarrow.BufferOutputStream()
        save(table, sink)
        contents[name] = sink.getvalue().to_pybytes()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**contents, **plots}.items():
        record.write_atomically(folder / name, content)
    return [folder / name for name in (*contents, *plots)]
