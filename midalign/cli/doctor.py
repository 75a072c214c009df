"""`midalign doctor`"""

import typer


def doctor() -> None:
    """Show what works here, and what to type where something does not.

    Exit status 0 when everything that midalign cannot do without works.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from midalign.doctor import findings

    console = Console(highlight=False)
    with console.status("looking"):
        found = list(findings())
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "", "found", "remedy"):
        table.add_column(heading, overflow="fold")  # a path or a command is never cut
    for finding in found:
        mark = "[green]ok" if finding.works else "[red]no" if finding.essential else "[yellow]--"
        table.add_row(mark, *map(escape, (finding.name, finding.found, finding.remedy)))
    console.print(table)
    if any(finding.essential and not finding.works for finding in found):
        raise typer.Exit(1)
