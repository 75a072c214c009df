"""`midalign analyze`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress
    from rich.table import Table

    from midalign.analyze.layers import LayerAnalysis
    from midalign.analyze.patching import PatchAnalysis


EXAMPLES = """\
midalign analyze mini --languages en,de,hi
midalign analyze google/gemma-3-270m --adapter runs/a --layers 6,9,12
midalign analyze mini --adapter runs/a --against analysis/mini
midalign analyze mini --patch midalign_mini_slot --languages de,tr
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
    languages: Annotated[
        str, typer.Option(metavar="CODES", help="Such as en,de,sw. Default: all. --patch needs them.")
    ] = "",
    count: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Sentences (or items to patch) per language: a seeded sample."),
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
    patch: Annotated[
        str,
        typer.Option(
            metavar="TASK",
            help="Activation patching: replace the last state of translated prompts by the English one.",
        ),
    ] = "",
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

    from midalign.analyze.layers import analyze_layers
    from midalign.analyze.patching import analyze_patching
    from midalign.cli.comma_lists import split_commas
    from midalign.cli.table_printing import print_table

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
    )
    if patch:
        if layers or against or records or sentences != "ntrex":
            raise typer.BadParameter("--patch does not use --sentences, --layers, --against and --records")
        if not languages:
            raise typer.BadParameter("--patch needs --languages, such as --languages de,sw")
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
            patched = analyze_patching(
                model,
                patch,
                split_commas([languages]),
                adapter=adapter,
                count=count,
                output=output,
                on_language=_shown_by(bars, "languages", 1),
            )
        print_table(Console(highlight=False, markup=False), _by_patched_layer(patched))
        for path in patched.files:
            print(path)
        return
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        found = analyze_layers(
            model,
            adapter=adapter,
            sentences=sentences,
            languages=split_commas([languages]) or None,
            count=count,
            layers=layers,
            against=against,
            records=records,
            output=output,
            on_language=_shown_by(bars, "languages", 10),
            on_layer=_shown_by(bars, "layers", 1),
        )
    screen = Console(highlight=False, markup=False)
    print_table(screen, _by_layer(found))
    print_table(screen, _by_language(found))
    if found.best_layer:
        screen.print(
            f"Retrieval peaks after block {found.best_layer}. In a recipe: align.layer={found.best_layer}"
        )
    for path in found.files:
        print(path)
    if records:
        correlations = found.correlations()
        screen.print("Pearson's r of alignment with English and score, over languages without task data:")
        for entry in correlations:
            scored = f"{entry.group}, {entry.evaluated}, {entry.languages} languages"
            low, high = entry.interval
            r = f"{entry.pearson:+.2f} [{low:+.2f}, {high:+.2f}]"
            screen.print(f"  {r}  {scored}  {entry.file}", soft_wrap=True)


def _shown_by(bars: "Progress", what: str, every: int) -> "Callable[[int, int], None]":
    """Return a callback that moves a bar, or prints a line per `every` items where there is no terminal."""
    bar = bars.add_task(what, total=None)

    def report(done: int, total: int) -> None:
        bars.update(bar, completed=done, total=total)
        if not bars.console.is_terminal and (done % every == 0 or done == total):
            bars.console.print(f"{what}  {done}/{total}", highlight=False)

    return report


def _by_layer(analysis: "LayerAnalysis") -> "Table":
    import numpy as np
    from rich import box
    from rich.table import Table

    earlier = analysis.earlier
    table = Table(box=box.SIMPLE, title=f"{analysis.title}: retrieval in %", title_justify="left")
    for heading in ("layer", "margin", "csls", "centred", "cosine", "margin, English", "MEXA, English"):
        table.add_column(heading, justify="right")
    if earlier:
        table.add_column(f"minus {earlier.model}", justify="right")
    for means in analysis.layers:
        cells = [means.all_pairs[name] for name in ("margin", "csls", "centred", "accuracy")]
        cells += [means.with_english["margin"], means.with_english["mexa"]]
        row = [str(means.layer), *(f"{100 * cell:.1f}" for cell in cells)]
        if earlier:
            before = earlier.headline.get(means.layer)
            row.append("" if before is None else f"{100 * (cells[0] - np.nanmean(before)):+.1f}")
        table.add_row(*row, style="bold" if means.layer == analysis.best_layer else "")
    return table


def _by_language(analysis: "LayerAnalysis") -> "Table":
    from rich import box
    from rich.table import Table

    from midalign.analyze.report import retrieval_with_english

    title = f"With English after block {analysis.best_layer}, margin in %"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    table.add_column("language")
    table.add_column("margin", justify="right")
    before: dict[str, float] = {}
    earlier = analysis.earlier
    if earlier and analysis.best_layer in earlier.headline:
        before = retrieval_with_english(earlier.headline[analysis.best_layer], analysis.languages)
        table.add_column(f"minus {earlier.model}", justify="right")
    shares = retrieval_with_english(analysis.headline, analysis.languages)
    for code, share in sorted(shares.items(), key=lambda entry: -entry[1]):
        change = [f"{100 * (share - before[code]):+.1f}"] if before else []
        table.add_row(code, f"{100 * share:.1f}", *change)
    return table


def _by_patched_layer(analysis: "PatchAnalysis") -> "Table":
    """Return the means over the languages by patched layer."""
    import numpy as np
    from rich import box
    from rich.table import Table

    from midalign.analyze.patching import MEASURES

    curves = analysis.curves
    levels = "; ".join(
        f"{measure}: not patched {np.mean([curve.foreign[measure] for curve in curves]):.2f}, "
        f"English {np.mean([curve.english[measure] for curve in curves]):.2f}"
        for measure in MEASURES
    )
    languages = ", ".join(curve.language for curve in curves)
    title = f"{analysis.model}, mean of {languages}\n{levels}"
    table = Table(box=box.SIMPLE, title=title, title_justify="left")
    for heading in ("layer", *(f"{name}{kind}" for name in MEASURES for kind in ("", ", other item"))):
        table.add_column(heading, justify="right")
    for layer in range(len(curves[0].patched["decision"])):
        cells = [
            f"{np.mean([curve[layer] for curve in kinds]):.2f}"
            for measure in MEASURES
            for kinds in (
                [curve.patched[measure] for curve in curves],
                [curve.unrelated[measure] for curve in curves],
            )
        ]
        table.add_row(str(layer), *cells)
    return table
