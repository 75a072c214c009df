"""`midalign doctor`."""

import textwrap

import typer

EXAMPLES = "midalign doctor"

WIDTH = 80
STYLES = {"pass": "green", "warn": "yellow", "fail": "red"}


def doctor() -> None:
    """Check the installation and suggest fixes.

    The exit status is 1 if a check fails. A warning means that midalign works without the feature.
    """
    from rich.console import Console

    from midalign.doctor import findings

    console = Console(highlight=False, markup=False)
    with Console(stderr=True).status("checking"):
        results = list(findings())
    width = max(len(result.name) for result in results) + 2
    for result in results:
        console.print(f"{result.status}  ", style=STYLES[result.status], end="")
        indent = " " * (width + 6)
        lines: list[str] = []
        for text in (result.found, *result.remedy.splitlines()):
            # A path that is longer than the line stays in one piece, to be copied.
            lines += textwrap.wrap(text, WIDTH - len(indent), break_long_words=False, break_on_hyphens=False)
        console.print(f"{result.name:{width}}" + f"\n{indent}".join(lines), soft_wrap=True)
    statuses = [result.status for result in results]
    console.print(", ".join(f"{statuses.count(status)} {status}" for status in STYLES))  # type: ignore[arg-type]
    if "fail" in statuses:
        raise typer.Exit(1)
