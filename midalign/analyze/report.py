"""What the table of all pairs says: by layer, by language, against another model, beside task scores."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign import record
from midalign.analyze.pairs import MEASURES, Matrices
from midalign.analyze.states import PIVOT, POOLING, digest
from midalign.errors import DataError, RecordError
from midalign.files import write_atomically
from midalign.languages import counterpart
from midalign.languages import language as known
from midalign.leaderboard.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = "margin"
"""What layers are compared by: retrieval by ratio margin, as in Liu and Niehues (2025)."""
SPREAD = (10, 90)
"""Percentiles over pairs."""
INCH = 0.155
"""Height of a language in a heat map, so that its code can be read."""
CHANGES = "changes.png"
TABLE = "alignment.parquet"
ABOUT = b"midalign"
"""Key of the parquet file's metadata under which stands what it was made of."""


@dataclass(frozen=True)
class Layer:
    """Means of every measure after a number of blocks."""

    layer: int
    all_pairs: dict[str, float]
    with_english: dict[str, float]
    spread: tuple[float, float]
    """Of the headline over all pairs."""


def by_layer(found: dict[int, Matrices]) -> list[Layer]:
    """Summarise the matrices per layer. English is their first language."""
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
    """Return the layer with the most retrieved translations, the lowest of equals.

    Embeddings, where alignment is impossible, count only if there is no other layer.
    """
    return max(layers, key=lambda one: (one.layer > 0, one.all_pairs[HEADLINE], -one.layer)).layer


def of_english(headline: np.ndarray, codes: Sequence[str]) -> dict[str, float]:
    """Return each other language's retrieval with English, the first: the mean of both directions."""
    both = (headline[0] + headline[:, 0]) / 2
    return {code: float(value) for code, value in zip(codes[1:], both[1:], strict=True)}


@dataclass(frozen=True)
class Correlation:
    """Of languages' alignment with their scores in one group of a record's tasks."""

    file: str
    """Of the record."""
    group: str
    evaluated: str
    """Split, sample and regime."""
    pearson: float
    languages: int


FEWEST = 4
"""Languages for a correlation."""


def of_model(runs: Sequence[Run], base: str, adapter: str | None, tokenizer: str) -> list[Run]:
    """Return those of one model, by the digests of its base, adapter and tokenizer.

    Older records do not say the tokenizer. Raises RecordError where there are none.
    """
    found = []
    for run in runs:
        own = run.record.adapter.digest if run.record.adapter else None
        alike = run.record.base.tokenizer in (None, tokenizer)
        if alike and (run.record.base.digest, own) == (base, adapter):
            found.append(run)
    if not found:
        raise RecordError(
            f"No record of this very model (base, adapter and tokenizer) among {len(runs)} runs. "
            f"Records are written by: midalign eval"
        )
    return found


def correlations(aligned: dict[str, float], runs: Sequence[Run]) -> list[Correlation]:
    """Return Pearson's r of `of_english` with the scores of `of_model`, per run.

    It is over the languages of both without task data, whose scores are transferred instead of learned (Liu
    and Niehues 2025). A translation direction with English counts for its other language, and their mean if
    there are both. Raises RecordError if no run has enough languages.
    """
    found = []
    for run in runs:
        scores = _scores(run)
        roles = run.record.roles
        shared = [
            (code, scored)
            for code, scored in _scored_codes(aligned, scores).items()
            if roles.of(scored) != "supervised"
        ]
        values = np.array([[aligned[code], scores[scored]] for code, scored in shared])
        if len(shared) >= FEWEST and values.std(axis=0).all():
            r = float(np.corrcoef(values.T)[0, 1])
            found.append(Correlation(run.file, run.group, _evaluated(run.record), r, len(shared)))
    if not found:
        raise RecordError(
            f"This model's scores vary over fewer than {FEWEST} of the analysed languages without task data "
            f"in each of its {len(runs)} groups of tasks. Analyse or score more languages: midalign eval"
        )
    return found


def _scored_codes(analysed: Collection[str], scored: Collection[str]) -> dict[str, str]:
    """Return scored by analysed code of the languages of both, no score twice."""
    codes = {code: counterpart(code, scored) for code in analysed}
    return {
        code: other
        for code, other in codes.items()
        if other is not None and code == counterpart(other, codes)
    }


def _evaluated(entry: record.Record) -> str:
    of = f"{entry.sample.limit} of {entry.sample.split}" if entry.sample.limit else entry.sample.split
    return f"{of}, {entry.decoding.get('regime', 'free')}"


def _scores(run: Run) -> dict[str, float]:
    """Return a run's headline by language."""
    values: dict[str, list[float]] = {}
    for place in run.languages:
        task = run.task(place)
        source, _, target = task.language.partition("-")
        if not target or PIVOT in (source, target):
            code = target if source == PIVOT and target else source
            score = next(iter(task.metrics.values())).value
            if score is not None:
                values.setdefault(code, []).append(score)
    return {code: sum(own) / len(own) for code, own in values.items()}


@dataclass(frozen=True)
class Analysis:
    """What an earlier analysis found."""

    model: str
    headline: dict[int, np.ndarray]
    """By layer, as in Matrices."""


def _about(path: Path) -> dict[str, Any]:
    """Return the metadata of an analysis's table. Raises DataError for another file."""
    import pyarrow
    import pyarrow.parquet

    try:
        about = (pyarrow.parquet.read_schema(path).metadata or {}).get(ABOUT)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Remove it, and analyse the model again") from None
    if about is None:
        raise DataError(f"{path} is not of midalign analyze")
    return dict(json.loads(about))


Digests = tuple[str, str | None, str]
"""Of an analysed model: base, adapter, tokenizer."""


def check_output(folder: Path, model: str, digests: Digests) -> None:
    """Raise DataError where a folder has another model's analysis, which would be written over.

    Older analyses do not say the tokenizer.
    """
    path = folder / TABLE
    if not path.is_file():
        return
    about = _about(path)
    if about.get("digests") not in (list(digests), list(digests[:2])):
        raise DataError(
            f"{folder} has the analysis of {about['model']}, and {model} is another model. "
            f"Write elsewhere: --output OTHER"
        )


def read(folder: Path, texts: Mapping[str, Sequence[str]], layers: Sequence[int]) -> Analysis:
    """Read the analysis in a folder.

    Raises DataError if there is none, or it has other sentences or layers.
    """
    import pyarrow.parquet

    path = folder / TABLE
    if not path.is_file():
        raise DataError(f"No {path}. Analyse the other model first: midalign analyze MODEL --output {folder}")
    about = _about(path)
    table = pyarrow.parquet.read_table(path, columns=["layer", HEADLINE])
    there = table["layer"].unique().to_pylist()
    if not set(there) & set(layers):
        raise DataError(
            f"{folder} has layers {', '.join(map(str, there))}, none of those asked for here. "
            f"Give both analyses the same --layers"
        )
    if about.get("sentences") != digest(texts):
        raise DataError(
            f"{folder} has {len(about.get('languages', []))} languages and {about.get('count')} sentences of "
            f"each, not those asked for here ({len(texts)} and {len(texts[PIVOT])}), or other texts: give "
            f"both analyses the same --sentences, --languages and --count"
        )
    if about.get("pooling") != POOLING:
        raise DataError(
            f"{folder} was analysed by an earlier version, whose means are over other tokens. Analyse "
            f"{about['model']} again: midalign analyze MODEL --output {folder}"
        )
    numbers, values = (table[name].to_numpy() for name in ("layer", HEADLINE))
    apart = ~np.eye(len(texts), dtype=bool)
    headline = {}
    for layer in np.unique(numbers):
        headline[int(layer)] = np.full(apart.shape, np.nan, np.float32)
        headline[int(layer)][apart] = values[numbers == layer]
    return Analysis(about["model"], headline)


def describe(table: Any, model: str, digests: Digests, texts: Mapping[str, Sequence[str]]) -> Any:
    """Return the table with what it was made of, for `read` and `check_output`."""
    about = {
        "model": model,
        "digests": digests,
        "languages": list(texts),
        "count": len(texts[PIVOT]),
        "sentences": digest(texts),
        "pooling": POOLING,
    }
    return table.replace_schema_metadata({ABOUT: json.dumps(about)})


def curve(layers: Sequence[Layer], title: str, other: Analysis | None) -> bytes:
    """Plot means by layer with the spread over pairs, as a PNG."""
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
            values = _percent([float(np.nanmean(matrix)) for matrix in other.headline.values()])
            label = f"margin, all pairs, {other.model}"
            axes.plot(list(other.headline), values, color=GREY, linestyle="--", label=label)
        axes.axvline(recommended(layers), color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xticks(numbers[:: 1 + len(numbers) // 20])
        axes.set_xlabel("blocks below the state (dotted: where most translations are found)")
        axes.set_ylabel("sentences that find their translation, %")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0, 100)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return _png(figure)


def heat_map(headline: np.ndarray, codes: Sequence[str], title: str, *, change: bool = False) -> bytes:
    """Plot retrieval from row to column, or its change, as a PNG.

    Languages are in the order of family, script and code.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    order = sorted(
        range(len(codes)), key=lambda i: (known(codes[i]).branch, known(codes[i]).script, codes[i])
    )
    branches = [known(codes[i]).branch for i in order]
    size = max(4.5, INCH * len(codes))
    with plt.style.context("default"), plt.rc_context({"font.size": 8}):
        figure, axes = plt.subplots(figsize=(size + 2.5, size + 1), layout="constrained")
        values = 100 * headline[np.ix_(order, order)]
        most = max(float(np.nanmax(np.abs(values))), 1.0)
        colours: dict[str, Any] = (
            {"cmap": "RdBu", "vmin": -most, "vmax": most}
            if change
            else {"cmap": "viridis", "vmin": 0, "vmax": 100}
        )
        image = axes.imshow(values, interpolation="nearest", **colours)
        labels = [codes[i] for i in order]
        axes.set_xticks(range(len(order)), labels, rotation=90)
        axes.set_yticks(range(len(order)), labels)
        first = [place for place, one in enumerate(branches) if branches.index(one) == place]
        for place in first[1:]:
            axes.axhline(place - 0.5, color="grey" if change else "white", linewidth=0.6)
            axes.axvline(place - 0.5, color="grey" if change else "white", linewidth=0.6)
        middles = [place + (branches.count(branches[place]) - 1) / 2 for place in first]
        families = axes.secondary_yaxis("right")
        families.set_yticks(middles, [branches[place] for place in first])
        families.tick_params(length=0)
        axes.set_xlabel("finds among the sentences of")
        axes.set_title(f"{title}\nlanguages by family and script", fontsize=max(10, size))
        label = f"margin retrieval, {'points' if change else '%'}"
        figure.colorbar(image, ax=axes, label=label, shrink=0.6, aspect=30)
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
    """Write `alignment.parquet`, `alignment.csv` and the plots. Removes an outdated plot of changes."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    contents = {}
    for name, save in (
        (TABLE, pyarrow.parquet.write_table),
        ("alignment.csv", pyarrow.csv.write_csv),
    ):
        sink = pyarrow.BufferOutputStream()
        save(table, sink)
        contents[name] = sink.getvalue().to_pybytes()
    folder.mkdir(parents=True, exist_ok=True)
    if CHANGES not in plots:
        (folder / CHANGES).unlink(missing_ok=True)
    for name, content in {**contents, **plots}.items():
        write_atomically(folder / name, content)
    return [folder / name for name in (*contents, *plots)]
