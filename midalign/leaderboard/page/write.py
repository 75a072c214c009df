"""Write the page: `index.html`, its script and style files, and the data as script files."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from midalign.files import write_atomically
from midalign.leaderboard.formatting import round_figures
from midalign.leaderboard.page.data import page_index, pair_data, section_data
from midalign.leaderboard.page.layers import read_layer_curves
from midalign.leaderboard.page.references import read_references
from midalign.leaderboard.section_figures import SectionFigures
from midalign.leaderboard.tables import MARK

FOLDER = "page"
"""Folder of the page's files, next to `index.html`."""
SCRIPTS = (
    "format.js",
    "state.js",
    "tables.js",
    "charts.js",
    "compare.js",
    "overview.js",
    "views.js",
    "model.js",
)
"""Scripts in the order of loading. A page opened from a file may not load JavaScript modules."""
START = "start.js"
"""The script that draws the first view, once the index is there."""
STYLE = "board.css"
PUBLICATION = "<!-- publication -->"
"""Place in `index.html` where a published page links its files and versions."""


def write_page(parts: Sequence[SectionFigures], output: Path) -> list[str]:
    """Write the page of all sections into a folder. The same sections give the same bytes.

    Returns the paths of the written files, relative to the folder. Raises MidalignError for reference rows or
    analyses in the folder that cannot be read.
    """
    folder = output / FOLDER
    index = page_index(parts, read_references(output), read_layer_curves(output))
    for name in ("data", "pairs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        # Data of sections that no longer exist must not stay.
        for outdated in (folder / name).glob("*.js"):
            outdated.unlink()
    written = []

    def write(path: str, text: str) -> None:
        write_atomically(output / path, text.encode(), sync=False)
        written.append(path)

    for name in (*SCRIPTS, START, STYLE):
        write(f"{FOLDER}/{name}", _packaged("static", name))
    write(f"{FOLDER}/data/index.js", _data_script("index", index))
    for part in parts:
        write(f"{FOLDER}/data/{part.slug}.js", _data_script(part.slug, section_data(part)))
        for name, pair in pair_data(part).items():
            write(f"{FOLDER}/pairs/{name}.js", _data_script(name, pair))
    write("index.html", render_html(parts))
    return written


def render_html(parts: Sequence[SectionFigures]) -> str:
    """Return the HTML of the page. Its tables and charts are drawn by the scripts."""
    groups = sorted({part.section.group for part in parts})
    return render_template("index.html.j2", groups=groups, scripts=SCRIPTS, start=START)


def render_template(name: str, **values: Any) -> str:
    """Return the HTML of a template, with every value escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_packaged("templates", name))
    marks = {"mark": Markup(MARK), "publication": Markup(PUBLICATION)}
    return template.render(**marks, folder=FOLDER, style=STYLE, **values) + "\n"


def script_json(value: Any) -> str:
    """Return a value as JSON that is safe inside a script file and a script element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _packaged(folder: str, name: str) -> str:
    return (files("midalign.leaderboard.page") / folder / name).read_text("utf-8")


def _data_script(name: str, data: Any) -> str:
    """Return a script that hands data to the page, which may not read other files itself."""
    return f"midalign.receive({script_json(name)}, {script_json(round_figures(data))});\n"
