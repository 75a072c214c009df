"""One analysis: from a model and parallel sentences to measures per layer, a table and plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midalign import adapter as adapters
from midalign import bases
from midalign.analyze import pairs, report, states
from midalign.analyze.devices import DoneCallback
from midalign.leaderboard.load import Run, load_runs
from midalign.reporting import ignore_progress


@dataclass(frozen=True)
class LayerAnalysis:
    """How well a model's languages are aligned at each layer."""

    title: str
    languages: list[str]
    """English first."""
    layers: list[report.LayerMeans]
    best_layer: int
    """The layer that retrieves the most translations."""
    headline: np.ndarray
    """(languages, languages), fp32: retrieval at the best layer, from row to column."""
    earlier: report.Analysis | None
    """The analysis that this one was compared with."""
    runs: list[Run]
    """The model's scores, from `records`."""
    files: list[Path]
    """Table and plots."""

    def correlations(self) -> list[report.Correlation]:
        """Return the correlation of alignment with English and score, per record.

        Raises RecordError if there are too few languages.
        """
        with_english = report.retrieval_with_english(self.headline, self.languages)
        return report.correlate_scores(with_english, self.runs)


def analyze_layers(
    model: str,
    *,
    adapter: Path | None = None,
    sentences: str = "ntrex",
    languages: Sequence[str] | None = None,
    count: int = 500,
    layers: str = "",
    against: Path | None = None,
    records: Path | None = None,
    output: Path | None = None,
    on_language: DoneCallback = ignore_progress,
    on_layer: DoneCallback = ignore_progress,
) -> LayerAnalysis:
    """Measure how well languages are aligned at each layer, and write a table and plots.

    Hidden states and measures that are on disk already are not computed again.

    Args:
        model: folder, hub id, or `mini`.
        adapter: folder of a peft adapter.
        sentences: `ntrex`, or a folder with one text file per language (`de.txt`), parallel by line.
        languages: codes; None for all of the source.
        count: sentences per language, a seeded sample.
        layers: numbers of blocks below the states, such as `4,8`; empty for all.
        against: folder of an earlier analysis to compare with.
        records: folder of records, for `LayerAnalysis.correlations`.
        output: folder of the results; None for `analysis/MODEL` or `analysis/ADAPTER`.
        on_language, on_layer: progress of the hidden states and of the measures.

    Raises DataError for unsuitable sentences, layers or folders, AdapterError, BaseModelError, RecordError.
    """
    from midalign.device import devices

    # 1. Check everything that can be wrong before the model runs.
    source = bases.resolve(model)
    if adapter is not None:
        adapters.check_adapter(adapter, source)
    texts = states.parallel_sentences(sentences, languages, count)
    wanted = pairs.layer_numbers(model, layers)
    adapter_digest = adapters.adapter_digest(adapter) if adapter else None
    digests = adapters.base_digest(source), adapter_digest, adapters.tokenizer_digest(source)
    name = f"{Path(model).name}{f' with {adapter.resolve().name}' if adapter else ''}"
    output = output or Path("analysis") / (adapter.resolve() if adapter else Path(model)).name
    report.check_output(output, name, digests)
    earlier = report.read_analysis(against, texts, wanted) if against else None
    runs = report.select_runs(load_runs(records), *digests) if records else []

    # 2. Compute what is not on disk yet: hidden states per language, then measures per layer.
    store = states.embed_languages(model, adapter, texts, output / "states", devices(), on_language)
    matrices = pairs.compare_layers(store, wanted, output / "pairs", devices(), on_layer)

    # 3. Summarise, plot and write.
    means = report.summarise_layers(matrices)
    best, codes = report.recommend_layer(means), list(texts)
    headline = matrices[best][report.HEADLINE]
    title = f"{name}, {len(codes)} languages, {len(texts[codes[0]])} sentences"
    plots = {
        "layers.png": report.plot_curve(means, title, earlier),
        "languages.png": report.plot_heat_map(headline, codes, f"{title}, after block {best}"),
    }
    before = earlier.headline.get(best) if earlier else None
    if earlier and before is not None:
        heading = f"{name} minus {earlier.model}, after block {best}"
        plots[report.CHANGES] = report.plot_heat_map(headline - before, codes, heading, change=True)
    table = report.add_metadata(pairs.pair_table(matrices, codes), name, digests, texts)
    files = report.write_analysis(output, table, plots)
    return LayerAnalysis(title, codes, means, best, headline, earlier, runs, files)
