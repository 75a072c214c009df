"""`midalign analyze`"""

from pathlib import Path
from typing import Annotated

import typer


def analyze(
    model: Annotated[str, typer.Argument(help="A folder, a hub id, or mini for the bundled base.")],
    adapter: Annotated[Path | None, typer.Option(help="A peft folder.")] = None,
    sentences: Annotated[
        str, typer.Option(help="ntrex, or a folder with a text file a language, parallel by line.")
    ] = "ntrex",
    languages: Annotated[str, typer.Option(help="Codes, such as de,sw; without it all.")] = "",
    count: Annotated[int, typer.Option(min=1, help="Sentences a language, a seeded sample.")] = 500,
    layers: Annotated[str, typer.Option(help="Numbers of blocks, such as 4,8; without it all.")] = "",
    against: Annotated[
        Path | None, typer.Option(help="Folder of another model's analysis, to compare.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder of records: scores beside languages' alignment.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for table, plots and states.")] = Path("analysis"),
) -> None:
    """Where in a model languages meet: retrieval between all of them, at every layer."""
    import os

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from midalign import bases
    from midalign.adapter import base_digest
    from midalign.analyze import pairs, report, states

    chosen = [code.strip() for code in languages.split(",") if code.strip()] or None
    texts = states.parallel(sentences, chosen, count)
    wanted = pairs.layers(model, layers)
    other = report.read(against) if against else None
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        embedding, comparing = bars.add_task("languages", total=None), bars.add_task("layers", total=None)
        store = states.embed(
            model,
            adapter,
            texts,
            output / "states",
            lambda done, total: bars.update(embedding, completed=done, total=total),
        )
        found = pairs.by_layer(
            store,
            wanted,
            output / "pairs",
            lambda done, total: bars.update(comparing, completed=done, total=total),
        )
    by_layer = report.by_layer(found)
    best, codes = report.recommended(by_layer), list(texts)
    name = f"{Path(model).name}{f' with {adapter.resolve().name}' if adapter else ''}"
    title = f"{name}, {len(codes)} languages, {len(texts[codes[0]])} sentences"
    plots = {
        "layers.png": report.curve(by_layer, title, other),
        "languages.png": report.heat_map(found[best], codes, f"{title}, after block {best}"),
    }
    paths = report.write(output, pairs.table(found, codes), plots)
    screen = Console(highlight=False)
    table = Table(box=box.SIMPLE, title=f"{title}: found translations in %", title_justify="left")
    for heading in ("layer", "margin", "csls", "centred", "cosine", "margin, English", "MEXA, English"):
        table.add_column(heading, justify="right")
    if other:
        table.add_column("minus the other", justify="right")
    for one in by_layer:
        cells = [one.all_pairs[name] for name in ("margin", "csls", "centred", "accuracy")]
        cells += [one.with_english["margin"], one.with_english["mexa"]]
        row = [str(one.layer), *(f"{100 * cell:.1f}" for cell in cells)]
        if other:
            row.append(f"{100 * (cells[0] - other[one.layer]):+.1f}" if one.layer in other else "")
        table.add_row(*row, style="bold" if one.layer == best else "")
    screen.print(table)
    screen.print(f"Most translations are found after block {best}: align.layer={best}")
    if records:
        digest = base_digest(bases.resolve(model))
        screen.print("Pearson's r of languages' alignment with English and their scores:")
        for entry in report.correlations(report.of_english(found[best], codes), records, digest):
            screen.print(f"  {entry.pearson:+.2f}  {entry.name}, {entry.languages} languages", soft_wrap=True)
    for path in paths:
        print(path)
