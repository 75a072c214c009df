"""Configuration of the documentation site: `make docs`."""

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT), str(ROOT / "harness_plugins")]

import midalign  # noqa: E402

_metadata = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

project = _metadata["name"]
default_role = "code"
author = "the midalign authors"
project_copyright = f"{author}, {_metadata['license']}"
release = version = midalign.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "build_time_math",
    "docstrings",
    "board_page",
    "external_links",
    "reference_pages",
]
exclude_patterns = ["_build"]
smartquotes = False  # options such as --limit keep their dashes

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 4
myst_substitutions = {"version": release}

autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Types of other packages have no page here, and no inventory is fetched to link them.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|transformers|peft|pydantic|collections|pathlib|datetime|typing|nn)(\..*)?"),
]

html_theme = "furo"
html_title = f"midalign {release}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["midalign.css"]
html_show_sourcelink = False
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
