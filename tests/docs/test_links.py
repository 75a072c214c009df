"""Relative links of Markdown files lead somewhere, on GitHub and on the site."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def tracked() -> list[Path]:
    """Return the files of the repository, without those that a build of the site writes."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    return [ROOT / name for name in listed.stdout.split("\0")[:-1]]


def prose_of(page: Path) -> str:
    """Return a page's text without code, which may look like a link."""
    return re.sub(r"^ *```.*?^ *```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page, and those that the page sets."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return (
        slugs
        | set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
        | set(re.findall(r"^\((\S+)\)=$", text, re.M))
    )


def test_relative_links_lead_to_files_of_the_repository() -> None:
    files = set(tracked())
    folders = {folder for path in files for folder in path.parents}
    followed, dead = 0, []
    for page in sorted(path for path in files if path.suffix == ".md"):
        for link in LINK.findall(prose_of(page)):
            place, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link):
                continue
            followed += 1
            target = (page.parent / place).resolve() if place else page
            if target not in files | folders:
                dead.append(f"{page.relative_to(ROOT)}: {link}")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target):
                dead.append(f"{page.relative_to(ROOT)}: {link} (no such heading)")
    assert followed > 100
    assert dead == []


def test_the_site_links_generated_pages_in_place_of_their_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sphinx", reason="Sphinx is not installed: make setup-dev")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "reference_pages", raising=False)
    import reference_pages

    for source in reference_pages.SOURCES.values():
        assert (ROOT / source).exists()
    text = "[a](../../midalign/train/recipe.py) [b](../../tasks/midalign/slot/README.md#scores) [c](eval.md)"
    assert reference_pages.with_generated_links(text, ROOT / "docs" / "train") == (
        "[a](../generated/recipe-keys.md) [b](../generated/slot.md#scores) [c](eval.md)"
    )
    linked = {
        link
        for page in (ROOT / "docs").rglob("*.md")
        if page.parent.name != "generated"
        for link in re.findall(
            r"generated/([\w-]+\.md)",
            reference_pages.with_generated_links(prose_of(page), page.parent),
        )
    }
    assert linked == set(reference_pages.SOURCES)
