"""`midalign comet setup`"""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="COMET, which has an environment of its own.")


@app.callback()
def comet() -> None:
    """COMET, which has an environment of its own."""


@app.command()
def setup(
    path: Annotated[
        Path | None,
        typer.Option(help="Folder for the environment; by default $MIDALIGN_COMET, or one in the cache."),
    ] = None,
) -> None:
    """Make the environment that --comet of midalign eval and midalign score needs; once, 1.4 GB."""
    from midalign.evaluate.comet import environment

    chosen = (path or environment.folder()).expanduser().absolute()
    made = environment.setup(chosen, lambda text: print(text, flush=True))
    print(f"COMET is {'ready' if made else 'there already'}: {chosen}")
    if chosen != environment.folder():
        print(f"For midalign to find it there: export MIDALIGN_COMET={chosen}")
