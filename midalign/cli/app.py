"""The `midalign` command and its subcommands."""

import typer

import midalign
from midalign.cli import tasks_dir

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=midalign.__doc__
)
app.command("tasks-dir")(tasks_dir.tasks_dir)
