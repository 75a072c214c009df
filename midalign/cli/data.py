"""`midalign data`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from midalign.cli.help import add_command, new_app
from midalign.data.registry import DOWNLOADED

if TYPE_CHECKING:
    from midalign.languages import Language

WIDTH = 110
"""Columns of the table of languages."""

app = new_app(
    "List, add and check data sets and languages.",
    "midalign data list\nmidalign data languages --family slot",
)


@add_command(app, "add", examples="midalign data add massive amazon-massive-dataset-1.1.tar.gz")
def add(
    name: Annotated[str, typer.Argument(help=f"{', '.join(DOWNLOADED[:-1])} or {DOWNLOADED[-1]}.")],
    path: Annotated[Path, typer.Argument(help="File, folder or archive, as published.")],
) -> None:
    """Add a data set from a local copy, verified by digest."""
    from midalign.data.registry import downloaded_data
    from midalign.errors import DataError, nearest

    if name not in DOWNLOADED:
        raise DataError(f"No data set {name!r}.{nearest(name, DOWNLOADED)} Expected {', '.join(DOWNLOADED)}")
    data = downloaded_data(name)
    added, missing = data.add(path)
    print(f"{name}: added {_shown(added)} to {data.FILES.path('x').parent}")
    if missing:
        print(f"still missing: {_shown(missing)}")


@add_command(app, "list", examples="midalign data list")
def list_() -> None:
    """List the data sets, their licences, and how to get them."""
    from midalign.data import cache
    from midalign.data.registry import BUNDLED, cache_states, data_set

    print(f"{BUNDLED:9} {'bundled':18} {data_set(BUNDLED).LICENCE}")
    states = cache_states()
    for state in states:
        print(f"{state.name:9} {f'{state.present} of {state.files} files':18} {state.licence}")
    print(f"\nFolder: {cache.cache_folder()}")
    if any(not state.complete for state in states):
        print("Missing files are downloaded at first use. From a local copy:\n  midalign data add NAME PATH")


@add_command(
    app,
    "languages",
    examples="midalign data languages --family translation\nmidalign data languages --json",
)
def languages_(
    family: Annotated[
        str, typer.Option(metavar="NAME", help="Only languages of slot, translation or structured.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print all columns as JSON.")] = False,
) -> None:
    """List languages with codes, scripts, resource classes and data sets."""
    import json
    from dataclasses import asdict

    from midalign.harness import family_languages
    from midalign.languages import RESOURCE_SOURCE, languages

    wanted = family_languages(family) if family else languages()
    rows = [row for code, row in languages().items() if code in wanted]
    if as_json:
        flat = []
        for row in rows:
            columns: dict[str, Any] = {}
            for name, value in asdict(row).items():
                columns |= value if name == "codes" else {name: value}
            flat.append({**columns, "resource": row.resource, "resource_source": RESOURCE_SOURCE})
        print(json.dumps(flat, ensure_ascii=False, indent=1))
        return
    _print_languages(rows)


def _print_languages(rows: "list[Language]") -> None:
    """Print a table of at most WIDTH columns, and its legend."""
    from rich.console import Console
    from rich.table import Table

    from midalign.cli.table_printing import print_table
    from midalign.data.registry import DATA_SETS
    from midalign.languages import RESOURCE_SOURCE

    console = Console(highlight=False, markup=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("code", "language", "script", "branch", "class", "data sets", "comet", "identifier"):
        foldable = heading in ("language", "branch", "data sets")
        table.add_column(heading, no_wrap=not foldable, overflow="fold" if foldable else "ellipsis")
    for row in rows:
        table.add_row(
            row.code,
            row.name,
            f"{row.script} {row.direction}",
            row.branch,
            f"{row.resource} {'-' if row.joshi is None else row.joshi}",
            " ".join(name for name in DATA_SETS if row.codes[name]),
            "yes" if row.comet else "",
            row.identifier,
        )
    print_table(console, table)
    console.print(
        f"\n{len(rows)} languages. class: {RESOURCE_SOURCE}; 4 and 5 are high, 3 is mid, 0 to 2 and "
        "unlisted languages (-) are low. comet: XLM-R, the encoder of COMET's models, was pretrained on it. "
        "identifier: py3langid's code. All codes: midalign data languages --json",
        markup=False,
    )


@add_command(
    app,
    "overlap",
    examples="midalign data overlap alma --test midalign_mt_ntrex\n"
    "midalign data overlap my-pairs.tsv --test midalign_slot --json",
)
def overlap(
    training: Annotated[
        list[str],
        typer.Argument(metavar="TRAINING", help="Training text: data sets, tasks or your own files."),
    ],
    test: Annotated[list[str], typer.Option(metavar="NAME", help="Task or group to check. Repeatable.")],
    split: Annotated[str, typer.Option(metavar="NAME", help="test or validation.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print all counts as JSON.")] = False,
) -> None:
    """Find test texts that the training text contains, exactly or nearly."""
    import json

    from midalign import guard
    from midalign.data.overlap import find_overlaps

    learned = [text for name in training for text in guard.training(name)]
    scored = guard.scored(test, split)
    found = find_overlaps(learned, scored)
    repeated = guard.repetitions(learned, scored)
    if as_json:
        within = [
            {"test": text.dataset, "split": text.split, "language": text.language, "tasks": text.tasks}
            | {"texts": len(text.sentences), "repeated": count}
            for text, count in repeated
        ]
        both = {"overlap": [{**one.model_dump(), "found": one.found} for one in found], "repeated": within}
        print(json.dumps(both, ensure_ascii=False, indent=1))
        return
    counted = [one for one in found if one.found]
    print(guard.describe_overlaps(counted) or "No overlap.")
    if len(found) > len(counted):
        short = sum(one.short for one in found if not one.found)
        print(f"{short:,} more texts are equal and too short to count (--json shows where).")
    if repeated:
        total, texts = sum(count for _, count in repeated), sum(len(text.sentences) for text, _ in repeated)
        languages = ", ".join(f"{text.language} {count}" for text, count in repeated if count)
        print(
            f"Within one data set, {total:,} of {texts:,} texts occur verbatim in the training split "
            f"of their language: {languages or 'none'}"
        )


def _shown(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])} ... ({len(names)} in all)"
