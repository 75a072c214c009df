"""Sphinx extension: read docstrings in Google's convention, and keep what is shown of them short.

`sphinx.ext.napoleon` would take the words before a colon in an attribute's docstring for its type.
"""

from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to autodoc."""
    app.connect("autodoc-process-docstring", _read_sections)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("doctree-resolved", _draw_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _read_sections(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn sections such as Args and Returns into fields of reStructuredText, in place."""
    if what in ("function", "method", "class"):
        config = Config(napoleon_use_rtype=False)
        lines[:] = _Docstring(lines, config, app, what, name, obj, options).lines()


def _draw_dashes(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Put a dash between a parameter and its meaning, where Sphinx counts on `smartquotes` for it."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


class _Docstring(GoogleDocstring):
    """A docstring whose Returns section is text: types stand in the signature."""

    def _consume_returns_section(self, preprocess_types: bool = False) -> list[tuple[str, str, list[str]]]:
        lines = self._dedent(self._consume_to_next_section())
        return [("", "", lines)] if lines else []


def _shorten(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, None] | None:
    """Leave out a model's signature: its fields are listed below it or on a page of their own."""
    if what == "class" and issubclass(obj, BaseModel):
        return "", None
    return None
