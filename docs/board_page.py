"""Sphinx extension: put the leaderboard's page next to the site's pages, as `leaderboard/index.html`."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

BOARD = Path(__file__).parents[1] / "leaderboard"
FILES = ("index.html", "README.md", "leaderboard.json")
"""The page and the files that it links to. Its scripts and data are in the folder `page`."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Copy the page once the site is built."""
    app.connect("build-finished", _copy_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _copy_page(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    output = Path(app.outdir) / BOARD.name
    output.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copy(BOARD / name, output / name)
    shutil.copytree(BOARD / "page", output / "page", dirs_exist_ok=True)
