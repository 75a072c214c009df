"""Sphinx extension: render formulas as MathML while building, so that pages load no script for them."""

import html
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the math renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _visit_block(translator: Any, node: nodes.math_block) -> None:
    label = html.escape(node["label"] or "") if "label" in node else ""
    anchor = f' id="equation-{label}"' if label else ""
    formula = tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="math"{anchor}>{formula}</div>\n')
    raise nodes.SkipNode
