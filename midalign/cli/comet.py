"""`midalign comet setup`."""

from pathlib import Path
from typing import Annotated

import typer

from midalign.cli.help import add_command, new_app

app = new_app("Install COMET into an environment of its own.", "midalign comet setup")


@app.callback()
def comet() -> None:
    """Keep typer from dropping the name of the only command."""


@add_command(app, examples="midalign comet setup\nmidalign comet setup --path /data/comet")
def setup(
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Environment to create. Default: $MIDALIGN_COMET or in the cache.",
        ),
    ] = None,
) -> None:
    """Create the environment that `--comet` needs.

    Takes a minute and 1.4 GB, once. COMET's dependencies conflict with midalign's, so it runs in its
    own process.
    """
    from midalign.evaluate.comet import environment

    chosen = (path or environment.environment_folder()).expanduser().absolute()
    created = environment.set_up_environment(chosen, lambda text: print(text, flush=True))
    print(f"COMET is {'ready' if created else 'already set up'}: {chosen}")
    if chosen != environment.environment_folder():
        print(f"Tell midalign where it is: export MIDALIGN_COMET={chosen}")
