"""Sphinx extension: list the external links of all pages without fetching them."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

FILE = "external-links.txt"

log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Write `external-links.txt` beside the pages once they are built."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    pages: dict[str, set[str]] = {}
    for page in app.env.found_docs:
        for reference in app.env.get_doctree(page).findall(nodes.reference):
            target = str(reference.get("refuri", ""))
            if target.startswith(("http://", "https://")):
                pages.setdefault(target, set()).add(page)
    lines = [f"{target}  {', '.join(sorted(pages[target]))}\n" for target in sorted(pages)]
    (app.outdir / FILE).write_text("".join(lines), "utf-8")
    log.info("%d external links, not fetched: %s", len(lines), FILE)
