"""Help pages: plain text of at most 80 columns, options and commands by purpose, examples at the end."""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

import midalign

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 80}
"""Context settings of click, which subcommands inherit."""
FIRST_COLUMN = 28
"""Widest name that has its text in the same line."""


def new_app(help_text: str, examples: str, completion: bool = False) -> typer.Typer:
    """Return an empty group of commands, with options for shell completion if wanted."""
    return typer.Typer(
        cls=HelpGroup,
        help=help_text,
        epilog=examples,
        no_args_is_help=True,
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
    )


def add_command(
    app: typer.Typer, name: str | None = None, *, examples: str, section: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds a function to `app`, in a section of the group's help.

    `examples` are command lines, printed as they are.
    """
    return app.command(
        name, cls=HelpCommand, epilog=examples, rich_help_panel=section, context_settings=SETTINGS
    )


class _Page:
    """The parts of a help page that commands and groups share. Click calls the methods."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the version and exit where `--version` is given, whatever else is."""
        if "--version" in args:
            print(f"midalign {midalign.__version__}")
            raise typer.Exit
        parsed: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        return parsed

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the command's name: [OPTIONS] and the arguments."""
        arguments = [entry for entry in self.get_params(ctx) if _is_argument(entry)]  # type: ignore[attr-defined]
        words = (f"{_name(entry)}{'' if entry.nargs == 1 else '...'}" for entry in arguments)
        pieces = (
            word if entry.required else f"[{word}]" for entry, word in zip(arguments, words, strict=True)
        )
        return ["[OPTIONS]", *pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then options by section, those without a section last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        other = []
        for entry in self.get_params(ctx):  # type: ignore[attr-defined]
            if entry.hidden:
                continue
            if _is_argument(entry):
                sections.setdefault("Arguments", []).append((_name(entry), entry.help))
            elif section := entry.rich_help_panel:
                sections.setdefault(section, []).append(entry.get_help_record(ctx))
            else:
                other.append(entry.get_help_record(ctx))
        other.append(("--version", "Show the version and exit."))
        sections["Other options" if len(sections) > ("Arguments" in sections) else "Options"] = other
        _write_sections(formatter, sections)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, line by line."""
        examples = self.epilog.strip().splitlines()  # type: ignore[attr-defined]
        with formatter.section("Examples" if len(examples) > 1 else "Example"):
            for line in examples:
                formatter.write(f"  {line}\n")


class HelpCommand(_Page, TyperCommand):
    """A command with the help page of this module."""


class HelpGroup(_Page, TyperGroup):
    """A group of commands with the help page of this module."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands by section, then the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            entry: Any = self.get_command(ctx, name)
            summary = entry.help.partition("\n\n")[0]
            sections.setdefault(entry.rich_help_panel or "Commands", []).append((name, summary))
        _write_sections(formatter, sections)
        super().format_options(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words after the group's name."""
        return ["[OPTIONS]", "COMMAND"]


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    """Write tables of two columns, the second at the same place in all."""
    lengths = [len(name) for rows in sections.values() for name, _ in rows]
    width = max((length for length in lengths if length <= FIRST_COLUMN), default=0)
    for section, rows in sections.items():
        with formatter.section(section):
            formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=width)
