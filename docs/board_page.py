"""Sphinx extension: build the leaderboard of the repository next to the site's pages, as `leaderboard/`."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

BOARD = Path(__file__).parents[1] / "leaderboard"
REFERENCES = "references.json"
ANALYSES = "analysis"


def setup(app: Sphinx) -> dict[str, bool]:
    """Build the board once the site is built."""
    app.connect("build-finished", _build_board)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _build_board(app: Sphinx, error: Exception | None) -> None:
    from midalign.leaderboard.build import build_board

    if error is not None:
        return
    output = Path(app.outdir) / BOARD.name
    output.mkdir(exist_ok=True)
    shutil.copy(BOARD / REFERENCES, output)
    shutil.copytree(BOARD / ANALYSES, output / ANALYSES, dirs_exist_ok=True)
    build_board(BOARD / "results", output)
