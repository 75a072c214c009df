"""The documentation site: it builds without a warning, and its pages request nothing from elsewhere."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""Attributes that a browser follows by itself. Anchors are followed by readers only."""


class Requests(HTMLParser):
    """Collects the addresses that a browser requests when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag or its style loads."""
        self.inside_style = tag == "style"
        values = dict(attrs)
        if values.get("rel") not in ("next", "prev", "index", "search", "canonical"):
            self.found.append(values.get(LOADING.get(tag, ""), "") or "")
        self.found += styled(values.get("style") or "")

    def handle_data(self, data: str) -> None:
        """Note what a style sheet within the page loads."""
        self.found += styled(data) if self.inside_style else []


def styled(css: str) -> list[str]:
    """Return what a style sheet loads."""
    return re.findall(r"""(?:url\(|@import)\s*['"]?([^'")\s;]+)""", css)


def requested(html: str) -> list[str]:
    """Return the addresses on other hosts that a page loads."""
    parser = Requests()
    parser.feed(html)
    return [address for address in parser.found if is_external(address)]


def is_external(address: str) -> bool:
    return re.match(r"(?:[a-z]+:)?//", address) is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed: make setup-dev")
    folder = tmp_path_factory.mktemp("site")
    flags = ["--fresh-env", "--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    command = [sys.executable, "-m", "sphinx", *flags, str(ROOT / "docs"), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


def pages(site: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(site.rglob("*.html")):
        yield file.relative_to(site).as_posix(), file.read_text("utf-8")


@pytest.mark.slow
def test_pages_request_nothing_from_other_hosts(site: Path) -> None:
    found = {name: requested(html) for name, html in pages(site)}
    assert len(found) > 40
    assert {name: addresses for name, addresses in found.items() if addresses} == {}
    sheets = {file.name: styled(file.read_text("utf-8")) for file in site.rglob("*.css")}
    assert [name for name, addresses in sheets.items() if any(map(is_external, addresses))] == []


@pytest.mark.slow
def test_formulas_are_in_the_page_and_external_links_in_a_list(site: Path) -> None:
    method = (site / "method.html").read_text("utf-8")
    source = (ROOT / "docs" / "method.md").read_text("utf-8")
    assert method.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') == (
        source.count("$$\n") // 2
    )
    listed = {line.split()[0] for line in (site / "external-links.txt").read_text("utf-8").splitlines()}
    assert "https://arxiv.org/abs/2502.14830" in listed
    assert all(address.startswith("https://") for address in listed)


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/a.css">',
        '<img src="http://example/a.png">',
        "<style>@import 'https://fonts.example/a.css';</style>",
        '<p style="background: url(https://example/a.png)">text</p>',
    ],
)
def test_requests_are_found(html: str) -> None:
    assert len(requested(f"<html>{html}<a href='https://example'>link</a></html>")) == 1
    assert requested("<script src='_static/a.js'></script><a href='https://example'>link</a>") == []
