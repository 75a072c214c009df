"""Escape text from records (names, notes, settings) for each output format.

One function per output format. HTML has its own next to the code that writes it.
"""

import re
import unicodedata

LONGEST = 200
"""Longest foreign text that tables show, in characters."""
UNREADABLE = "\ufffd"
"""Replacement of control characters, lone surrogates and characters that change the writing direction."""

_SPACE = re.compile(r"[ \t\n\r\v\f\x85\u2028\u2029]+")
_DIRECTION = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_MARKUP = re.compile(r"[\\`*\[\]<>$~&#]|(?<![^\W_])_|_(?![^\W_])|(?<=:)(?=//)|(?<=\bwww)(?=\.)")
"""Characters that begin markup on GitHub, in Sphinx, or both. An underscore inside a word does not, and a
URL becomes a link only if nothing stands before `//`."""
_BLOCK = re.compile(r"\A( ?\d*)([#%+=.:)-])(?=[ #%+=:-]|\Z)")
"""Start of a heading, a list item or another block."""
_REFERENCE = re.compile(r"@|\\#|(?<![A-Za-z])[Gg][Hh]-(?=\d)")
"""Text that GitHub links in comments beyond Markdown: people, issues and pull requests."""
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
}
_OUTSIDE_OF_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain_text(text: str, longest: int = LONGEST) -> str:
    """Return foreign text as one readable line of at most `longest` characters, without control characters.

    This is the escaping for plots, and for terminals that print without markup.
    """
    line = "".join(
        UNREADABLE if _is_unreadable(character) else character
        for character in _SPACE.sub(" ", text[: 10 * longest])
    )
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def command_line(command: str) -> str:
    """Return a quoted shell command as one readable line.

    It is never truncated: a quoted word without its end would make code of the text that follows.
    """
    return plain_text(command, len(command))


def _is_unreadable(character: str) -> bool:
    return character in _DIRECTION or unicodedata.category(character) in ("Cc", "Cs", "Cn")


def escape_markdown(text: str, longest: int = LONGEST) -> str:
    """Return foreign text as Markdown that renders as this text, without markup, links and formulas.

    `formatting.markdown_table` escapes the bars of a cell.
    """
    return _BLOCK.sub(r"\1\\\2", _MARKUP.sub(lambda match: f"\\{match[0]}", plain_text(text, longest)))


def escape_comment(text: str, longest: int = LONGEST) -> str:
    """Return foreign text as Markdown of a comment on GitHub: nobody is notified, and nothing is linked.

    An empty HTML comment after `@`, `#` and `GH-` ends the name before it begins.
    """
    return _REFERENCE.sub(lambda match: f"{match[0]}<!-- -->", escape_markdown(text, longest))


def code_span(text: str) -> str:
    """Return foreign text as a Markdown code span. Backquotes become apostrophes."""
    return f"`{plain_text(text).replace('`', chr(39)).strip() or ' '}`"


def code_block(text: str, language: str = "") -> str:
    """Return foreign text of several lines as a Markdown code block, whose fence is longer than any in it."""
    readable = "".join(UNREADABLE if char in _DIRECTION else char for char in terminal_lines(text))
    longest = max(map(len, re.findall("`+", readable)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}{language}\n{readable.rstrip()}\n{fence}"


def latex_text(text: str, longest: int = LONGEST) -> str:
    """Return foreign text as LaTeX that prints this text."""
    return "".join(_LATEX.get(character, character) for character in plain_text(text, longest))


def terminal_lines(text: str) -> str:
    """Return text of several lines without characters that control a terminal."""
    return _OUTSIDE_OF_LINES.sub(UNREADABLE, text).encode(errors="replace").decode()
