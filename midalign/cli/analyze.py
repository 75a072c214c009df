"""`midalign analyze`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from rich.progress import Progress
    from rich.table import Table

    from midalign.analyze.report import Analysis, LayerMeans


EXAMPLES = """\
midalign analyze mini --languages en,de,hi
midalign analyze google/gemma-3-270m --adapter runs/a --layers 6,9,12
midalign analyze mini --adapter runs/a --against analysis/mini
"""


def analyze(
    model: Annotated[str, typer.Argument(help="Folder or hub id, or mini (bundled).")],
    adapter: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Peft adapter.")] = None,
    sentences: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="ntrex, or a folder with one text file per language, parallel by line."
        ),
    ] = "ntrex",
    languages: Annotated[str, typer.Option(metavar="CODES", help="Such as en,de,sw. Default: all.")] = "",
    count: Annotated[
        int, typer.Option(metavar="N", min=1, help="Sentences per language: a seeded sample.")
    ] = 500,
    layers: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Layers to measure, such as 4,8. Default: all.")
    ] = "",
    against: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Analysis of another model to compare with.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Records: correlate alignment with their scores."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where table, plots and hidden states go. Default: analysis/MODEL or analysis/ADAPTER.",
        ),
    ] = None,
) -> None:
    """Measure how well languages are aligned at each layer.

    Aligned means that a sentence's translation is its nearest neighbour among all sentences of the
    other language.
    """
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ["TQDM_DISABLE"] = "1"  # transformers' own bars
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from midalign import adapter as adapters
    from midalign import bases
    from midalign.analyze import pairs, report, states
    from midalign.cli.table_printing import print_table
    from midalign.device import devices
    from midalign.leaderboard.load import load_runs

    # 1. Check everything that can be wrong before the model runs.
    if adapter is not None:
        adapters.check(adapter, bases.resolve(model))
    chosen = [code.strip() for code in languages.split(",") if code.strip()] or None
    texts = states.parallel_sentences(sentences, chosen, count)
    wanted = pairs.layer_numbers(model, layers)
    source = bases.resolve(model)
    adapter_digest = adapters.digest(adapter) if adapter else None
    digests = adapters.base_digest(source), adapter_digest, adapters.tokenizer_digest(source)
    name = f"{Path(model).name}{f' with {adapter.resolve().name}' if adapter else ''}"
    output = output or Path("analysis") / (adapter.resolve() if adapter else Path(model)).name
    report.check_output(output, name, digests)
    other = report.read_analysis(against, texts, wanted) if against else None
    runs = report.select_runs(load_runs(records), *digests) if records else []

    # 2. Compute what is not on disk yet: hidden states per language, then measures per layer.
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        store = states.embed_languages(
            model, adapter, texts, output / "states", devices(), _shown_by(bars, "languages", 10)
        )
        matrices = pairs.compare_layers(
            store, wanted, output / "pairs", devices(), _shown_by(bars, "layers", 1)
        )

    # 3. Summarise, plot and write.
    by_layer = report.summarise_layers(matrices)
    best, codes = report.recommend_layer(by_layer), list(texts)
    title = f"{name}, {len(codes)} languages, {len(texts[codes[0]])} sentences"
    headline = matrices[best][report.HEADLINE]
    plots = {
        "layers.png": report.plot_curve(by_layer, title, other),
        "languages.png": report.plot_heat_map(headline, codes, f"{title}, after block {best}"),
    }
    earlier = other.headline.get(best) if other else None
    if other and earlier is not None:
        heading = f"{name} minus {other.model}, after block {best}"
        plots[report.CHANGES] = report.plot_heat_map(headline - earlier, codes, heading, change=True)
    paths = report.write_analysis(
        output, report.add_metadata(pairs.pair_table(matrices, codes), name, digests, texts), plots
    )

    # 4. Print the summary, and the correlation with scores.
    screen = Console(highlight=False, markup=False)
    print_table(screen, _by_layer(by_layer, best, title, other))
    print_table(screen, _by_language(headline, codes, best, other))
    if best:
        screen.print(f"Retrieval peaks after block {best}. In a recipe: align.layer={best}")
    for path in paths:
        print(path)
    if records:
        screen.print("Pearson's r of alignment with English and score, over languages without task data:")
        for entry in report.correlate_scores(report.retrieval_with_english(headline, codes), runs):
            scored = f"{entry.group}, {entry.evaluated}, {entry.languages} languages"
            line = f"  {entry.pearson:+.2f}  {scored}  {entry.file}"
            screen.print(line, soft_wrap=True)


def _shown_by(bars: "Progress", what: str, every: int) -> "Callable[[int, int], None]":
    """Return a callback that moves a bar, or prints a line per `every` items where there is no terminal."""
    bar = bars.add_task(what, total=None)

    def report(done: int, total: int) -> None:
        bars.update(bar, completed=done, total=total)
        if not bars.console.is_terminal and (done % every == 0 or done == total):
            bars.console.print(f"{what}  {done}/{total}", highlight=False)

    return report


def _by_layer(layers: "Sequence[LayerMeans]", best: int, title: str, other: "Analysis | None") -> "Table":
    import numpy as np
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=f"{title}: retrieval in %", title_justify="left")
    for heading in ("layer", "margin", "csls", "centred", "cosine", "margin, English", "MEXA, English"):
        table.add_column(heading, justify="right")
    if other:
        table.add_column(f"minus {other.model}", justify="right")
    for means in layers:
        cells = [means.all_pairs[name] for name in ("margin", "csls", "centred", "accuracy")]
        cells += [means.with_english["margin"], means.with_english["mexa"]]
        row = [str(means.layer), *(f"{100 * cell:.1f}" for cell in cells)]
        if other:
            earlier = other.headline.get(means.layer)
            row.append("" if earlier is None else f"{100 * (cells[0] - np.nanmean(earlier)):+.1f}")
        table.add_row(*row, style="bold" if means.layer == best else "")
    return table


def _by_language(
    headline: "np.ndarray", codes: "Sequence[str]", layer: int, other: "Analysis | None"
) -> "Table":
    from rich import box
    from rich.table import Table

    from midalign.analyze.report import retrieval_with_english

    title = f"With English after block {layer}, margin in %"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("language")
    table.add_column("margin", justify="right")
    earlier: dict[str, float] = {}
    if other and layer in other.headline:
        earlier = retrieval_with_english(other.headline[layer], codes)
        table.add_column(f"minus {other.model}", justify="right")
    for code, value in sorted(retrieval_with_english(headline, codes).items(), key=lambda entry: -entry[1]):
        change = [f"{100 * (value - earlier[code]):+.1f}"] if earlier else []
        table.add_row(code, f"{100 * value:.1f}", *change)
    return table
