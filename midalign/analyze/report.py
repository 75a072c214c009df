"""Summaries of an analysis: by layer, by language, against another model, and beside task scores."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midalign import record
from midalign.analyze.pairs import MEASURES, Matrices
from midalign.analyze.states import PIVOT, POOLING, sentences_digest
from midalign.errors import DataError, RecordError
from midalign.files import write_atomically
from midalign.languages import counterpart
from midalign.languages import language as known
from midalign.leaderboard.load import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADLINE = "margin"
"""Measure that layers are compared by: retrieval by ratio margin, as in Liu and Niehues (2025)."""
SPREAD = (10, 90)
"""Percentiles over pairs."""
INCH = 0.155
"""Height of a language in a heat map, which keeps its code readable."""
CHANGES = "changes.png"
TABLE = "alignment.parquet"
ABOUT = b"midalign"
"""Key of the analysis's inputs in the metadata of the parquet file."""


@dataclass(frozen=True)
class LayerMeans:
    """Means of every measure at one layer."""

    layer: int
    """Number of blocks before the states."""
    all_pairs: dict[str, float]
    with_english: dict[str, float]
    spread: tuple[float, float]
    """SPREAD percentiles of the headline over all pairs."""


def summarise_layers(by_layer: dict[int, Matrices]) -> list[LayerMeans]:
    """Summarise the matrices per layer. English is the first language."""
    return [
        LayerMeans(
            layer,
            {name: float(np.nanmean(matrices[name])) for name in MEASURES},
            {name: float(np.nanmean([matrices[name][0], matrices[name][:, 0]])) for name in MEASURES},
            (float(low), float(high)),
        )
        for layer, matrices in by_layer.items()
        for low, high in [np.nanpercentile(matrices[HEADLINE], SPREAD)]
    ]


def recommend_layer(layers: Sequence[LayerMeans]) -> int:
    """Return the layer that retrieves the most translations, the lowest of equals.

    Embeddings cannot be aligned, so they count only if there is no other layer.
    """
    return max(layers, key=lambda means: (means.layer > 0, means.all_pairs[HEADLINE], -means.layer)).layer


def retrieval_with_english(headline: np.ndarray, codes: Sequence[str]) -> dict[str, float]:
    """Return each language's retrieval with English, the first language: the mean of both directions."""
    both = (headline[0] + headline[:, 0]) / 2
    return {code: float(value) for code, value in zip(codes[1:], both[1:], strict=True)}


@dataclass(frozen=True)
class Correlation:
    """Correlation of per-language alignment and score within one task group."""

    file: str
    """File name of the record."""
    group: str
    evaluated: str
    """Split, sample and regime."""
    pearson: float
    interval: tuple[float, float]
    """Bounds of the 95% interval, by Fisher's transformation."""
    languages: int


FEWEST = 4
"""Languages for a correlation."""


def select_runs(runs: Sequence[Run], base: str, adapter: str | None, tokenizer: str) -> list[Run]:
    """Return the runs of one model, by the digests of its base, adapter and tokenizer.

    Older records lack the tokenizer. Raises RecordError if there are no runs of the model.
    """
    selected = []
    for run in runs:
        digest = run.record.adapter.digest if run.record.adapter else None
        has_tokenizer = run.record.base.tokenizer in (None, tokenizer)
        if has_tokenizer and (run.record.base.digest, digest) == (base, adapter):
            selected.append(run)
    if not selected:
        raise RecordError(
            f"No record of this model (same base, adapter and tokenizer) among {len(runs)} runs. "
            f"Records are written by: midalign eval"
        )
    return selected


def correlate_scores(aligned: dict[str, float], runs: Sequence[Run]) -> list[Correlation]:
    """Return Pearson's r between `retrieval_with_english` and the headline score, per run.

    It is over the shared languages without task data, whose scores are transferred instead of learned (Liu
    and Niehues 2025). A translation direction with English counts for its other language, and both directions
    by their mean. Raises RecordError if no run has enough languages.
    """
    from scipy.stats import pearsonr

    correlations = []
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
            result = pearsonr(*values.T)
            low, high = map(float, result.confidence_interval())
            r = float(result.statistic)
            evaluated = _evaluated(run.record)
            correlations.append(Correlation(run.file, run.group, evaluated, r, (low, high), len(shared)))
    if not correlations:
        raise RecordError(
            f"This model's scores vary over fewer than {FEWEST} of the analysed languages without task data "
            f"in each of its {len(runs)} groups of tasks. Analyse or score more languages: midalign eval"
        )
    return correlations


def _scored_codes(analysed: Collection[str], scored: Collection[str]) -> dict[str, str]:
    """Return analysed code -> scored code of the shared languages. Each score is used once."""
    codes = {code: counterpart(code, scored) for code in analysed}
    return {
        code: other
        for code, other in codes.items()
        if other is not None and code == counterpart(other, codes)
    }


def _evaluated(entry: record.Record) -> str:
    sample = f"{entry.sample.limit} of {entry.sample.split}" if entry.sample.limit else entry.sample.split
    return f"{sample}, {entry.decoding.get('regime', 'free')}"


def _scores(run: Run) -> dict[str, float]:
    """Return a run's headline score by language."""
    values: dict[str, list[float]] = {}
    for place in run.languages:
        task = run.task(place)
        source, _, target = task.language.partition("-")
        if not target or PIVOT in (source, target):
            code = target if source == PIVOT and target else source
            score = next(iter(task.metrics.values())).value
            if score is not None:
                values.setdefault(code, []).append(score)
    return {code: sum(scores) / len(scores) for code, scores in values.items()}


@dataclass(frozen=True)
class Analysis:
    """The result of an earlier analysis."""

    model: str
    languages: list[str]
    """English first."""
    count: int
    """Sentences per language."""
    sentences: str
    """Digest of the sentences."""
    headline: dict[int, np.ndarray]
    """Layer -> matrix of the headline, as in Matrices."""

    def retrieval_with_english(self, layer: int) -> dict[str, float]:
        """Return each other language's retrieval with English at a layer."""
        return retrieval_with_english(self.headline[layer], self.languages)


def _about(path: Path) -> dict[str, Any]:
    """Return the metadata of an analysis's table. Raises DataError for any other file."""
    import pyarrow
    import pyarrow.parquet

    try:
        about = (pyarrow.parquet.read_schema(path).metadata or {}).get(ABOUT)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}. Remove it, and analyse the model again") from error
    if about is None:
        raise DataError(f"{path} was not written by midalign analyze")
    return dict(json.loads(about))


Digests = tuple[str, str | None, str]
"""Digests of an analysed model: base, adapter, tokenizer."""


def check_output(folder: Path, model: str, digests: Digests) -> None:
    """Raise DataError if a folder has another model's analysis, which would be overwritten.

    Older analyses lack the tokenizer.
    """
    path = folder / TABLE
    if not path.is_file():
        return
    about = _about(path)
    if about.get("digests") not in (list(digests), list(digests[:2])):
        raise DataError(
            f"{folder} has the analysis of {about['model']}, and {model} is another model. "
            f"Choose another --output"
        )


def load_analysis(folder: Path) -> Analysis:
    """Load the analysis in a folder. Raises DataError if there is none, or an earlier version wrote it."""
    import pyarrow.parquet

    path = folder / TABLE
    if not path.is_file():
        raise DataError(f"No {path}. Analyse the other model first: midalign analyze MODEL --output {folder}")
    about = _about(path)
    if about.get("pooling") != POOLING:
        raise DataError(
            f"{folder} was written by an earlier version, whose means are over other tokens. Analyse "
            f"{about['model']} again: midalign analyze MODEL --output {folder}"
        )
    table = pyarrow.parquet.read_table(path, columns=["layer", HEADLINE])
    numbers, values = (table[name].to_numpy() for name in ("layer", HEADLINE))

    # Turn the table's rows back into one matrix per layer.
    apart = ~np.eye(len(about["languages"]), dtype=bool)
    headline = {}
    for layer in np.unique(numbers):
        headline[int(layer)] = np.full(apart.shape, np.nan, np.float32)
        headline[int(layer)][apart] = values[numbers == layer]
    return Analysis(about["model"], about["languages"], about["count"], about["sentences"], headline)


def read_analysis(folder: Path, texts: Mapping[str, Sequence[str]], layers: Sequence[int]) -> Analysis:
    """Read the analysis in a folder.

    Raises DataError if there is none, or it has other sentences or layers.
    """
    earlier = load_analysis(folder)
    if not set(earlier.headline) & set(layers):
        raise DataError(
            f"{folder} has layers {', '.join(map(str, earlier.headline))}, and none of the requested ones. "
            f"Give both analyses the same --layers"
        )
    if earlier.sentences != sentences_digest(texts):
        raise DataError(
            f"{folder} has {len(earlier.languages)} languages and {earlier.count} sentences of "
            f"each, not those requested here ({len(texts)} and {len(texts[PIVOT])}), or other texts. Give "
            f"both analyses the same --sentences, --languages and --count"
        )
    return earlier


def add_metadata(table: Any, model: str, digests: Digests, texts: Mapping[str, Sequence[str]]) -> Any:
    """Return the table with the metadata that `read_analysis` and `check_output` need."""
    about = {
        "model": model,
        "digests": digests,
        "languages": list(texts),
        "count": len(texts[PIVOT]),
        "sentences": sentences_digest(texts),
        "pooling": POOLING,
    }
    return table.replace_schema_metadata({ABOUT: json.dumps(about)})


def plot_curve(layers: Sequence[LayerMeans], title: str, other: Analysis | None) -> bytes:
    """Plot means by layer with the spread over pairs, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from midalign.leaderboard.plots import COLOURS, GREY, plot_style

    numbers = [means.layer for means in layers]
    with plot_style():
        figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
        low, high = zip(*(means.spread for means in layers), strict=True)
        axes.fill_between(numbers, _percent(low), _percent(high), color=COLOURS[0], alpha=0.15, linewidth=0)
        lines = {
            "margin, all pairs (band: 10th to 90th percentile)": [
                means.all_pairs["margin"] for means in layers
            ],
            "margin, with English": [means.with_english["margin"] for means in layers],
            "centred cosine, all pairs": [means.all_pairs["centred"] for means in layers],
            "MEXA, with English": [means.with_english["mexa"] for means in layers],
        }
        for (label, values), colour in zip(lines.items(), COLOURS, strict=False):
            axes.plot(numbers, _percent(values), color=colour, marker="o", markersize=3, label=label)
        if other:
            values = _percent([float(np.nanmean(matrix)) for matrix in other.headline.values()])
            label = f"margin, all pairs, {other.model}"
            axes.plot(list(other.headline), values, color=GREY, linestyle="--", label=label)
        axes.axvline(recommend_layer(layers), color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xticks(numbers[:: 1 + len(numbers) // 20])
        axes.set_xlabel("blocks below the state (dotted: where most translations are found)")
        axes.set_ylabel("sentences that find their translation, %")
        axes.set_title(title, fontsize=10)
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        return _png(figure)


def plot_heat_map(headline: np.ndarray, codes: Sequence[str], title: str, *, change: bool = False) -> bytes:
    """Plot retrieval from row to column, or its change, as a PNG.

    Languages are in the order of family, script and code.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from midalign.leaderboard.plots import plot_style

    order = sorted(
        range(len(codes)), key=lambda i: (known(codes[i]).branch, known(codes[i]).script, codes[i])
    )
    branches = [known(codes[i]).branch for i in order]
    size = max(4.5, INCH * len(codes))
    with plot_style(font_size=8):
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
        # Separate the language families, and name each in the middle of its rows.
        first = [place for place, branch in enumerate(branches) if branches.index(branch) == place]
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


def write_analysis(folder: Path, table: Any, plots: dict[str, bytes]) -> list[Path]:
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
