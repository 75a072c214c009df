"""`midalign data add` and `midalign data list`"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Data sets on this machine.")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="massive, tatoeba, ntrex, wmt23, alma or uner.")],
    path: Annotated[Path, typer.Argument(help="A file, a folder or an archive of the publisher's files.")],
) -> None:
    """Add a data set from a local copy, verified against the digests that midalign carries."""
    from midalign.data.registry import DATASETS
    from midalign.errors import DataError, nearest

    if name not in DATASETS:
        raise DataError(f"No data set {name!r}.{nearest(name, DATASETS)} Expected {', '.join(DATASETS)}")
    added, missing = DATASETS[name].add(path)
    print(f"{name}: added {_shown(added)} to {DATASETS[name].FILES.path('x').parent}")
    if missing:
        print(f"still missing: {_shown(missing)}")


@app.command("list")
def list_() -> None:
    """Show which data sets are here, and how to get the others."""
    from midalign.data.registry import states

    print("mini      bundled with midalign, Apache-2.0")
    for state in states():
        rest = "" if state.complete else f"; downloaded at first use, or: {state.remedy}"
        print(
            f"{state.name:9} {state.present} of {state.files} files, {state.licence}, in {state.folder}{rest}"
        )


def _shown(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:6])} ... ({len(names)} in all)"
