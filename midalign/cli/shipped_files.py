"""`midalign recipes`, `midalign presets` and `midalign sweeps`."""

import textwrap
from typing import Annotated

import typer

from midalign.cli.help import add_command, new_app

WIDTH = 78
KINDS = {
    "recipes": ("recipe", "mini", "List or print the recipes for `midalign train`."),
    "presets": ("preset", "default", "List or print the presets: default values that recipes build on."),
    "sweeps": ("sweep", "layer", "List or print the sweeps for `midalign sweep`."),
}
"""Kind of file (`midalign.shipped.FOLDERS`) -> singular, an example, the group's help."""


def new_group(kind: str) -> typer.Typer:
    """Return the commands `list` and `show` for one of KINDS."""
    singular, example, help_text = KINDS[kind]
    app = new_app(help_text, f"midalign {kind} list\nmidalign {kind} show {example} > mine.yaml")

    def list_files() -> None:
        from midalign.shipped import shipped_names, shipped_summary

        names = shipped_names(kind)
        width = max(map(len, names)) + 2
        for name in names:
            lines = textwrap.wrap(shipped_summary(kind, name), WIDTH - width, break_on_hyphens=False)
            print(f"{name:{width}}" + f"\n{' ' * width}".join(lines))

    def show(name: Annotated[str, typer.Argument(help=f"Such as {example}.")]) -> None:
        from midalign.errors import RecipeError, nearest
        from midalign.shipped import shipped_names, shipped_text

        names = shipped_names(kind)
        if name not in names:
            raise RecipeError(f"No {singular} {name!r}.{nearest(name, names)} Available: {', '.join(names)}")
        print(shipped_text(kind, name), end="")

    list_files.__doc__ = f"List the {kind} of the package with one-line descriptions."
    show.__doc__ = f"Print a {singular}, for reading or as a starting point."
    add_command(app, "list", examples=f"midalign {kind} list")(list_files)
    add_command(app, "show", examples=f"midalign {kind} show {example} > mine.yaml")(show)
    return app
