"""Print tables on terminals of any width without cutting a figure."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH = 100
"""Columns of a table where the output is no terminal."""
ELLIPSIS = "…"
"""Character that rich puts in place of text that does not fit its column."""


def table_console() -> "Console":
    """Return a console that prints text as it is, WIDTH columns wide unless it is a terminal."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def print_table(console: "Console", table: "Table") -> None:
    """Print `table`, or a block of lines per row where the console is too narrow for it."""
    from rich.cells import cell_len

    for column in table.columns:
        if column.justify == "right":  # a heading may wrap, an interval stays on one line
            words = [*str(column.header).split(), *map(str, column.cells)]
            column.min_width = max(map(cell_len, words), default=0)
    if _fits(console, table):
        console.print(table)
        return
    if table.title:
        console.print(f"\n{table.title}")
    headers = [str(column.header) for column in table.columns]
    width = max(map(len, headers[1:]), default=0)
    for heading, *cells in zip(*(map(str, column.cells) for column in table.columns), strict=True):
        console.print(f"\n{heading}", soft_wrap=True)
        for header, cell in zip(headers[1:], cells, strict=True):
            if cell:
                console.print(f"  {header:{width}}  {cell}" if width else f"  {cell}", soft_wrap=True)
    console.print()


def _fits(console: "Console", table: "Table") -> bool:
    """Return whether no cell loses text at the console's width."""
    from rich.cells import cell_len

    text = "".join(segment.text for segment in console.render(table))
    return ELLIPSIS not in text and max(map(cell_len, text.splitlines())) <= console.width
