"""Help pages of all commands, as a newcomer sees them on a terminal of 80 columns."""

import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import midalign
from midalign.cli import train
from midalign.cli.app import app


def commands(entry: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command and group, at all depths."""
    yield words
    for name, child in getattr(entry, "commands", {}).items():
        yield from commands(child, (*words, name))


COMMANDS = list(commands(typer.main.get_command(app)))


def page(*words: str, flag: str = "--help", columns: int = 80) -> str:
    """Return a command's help. typer's CliRunner would ignore the terminal's width."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as end:
            app([*words, flag], prog_name="midalign")
    assert end.value.code == 0
    return out.getvalue()


def examples(text: str) -> list[str]:
    """Return the command lines under the page's last heading, with continued lines joined."""
    heading, _, lines = text.rpartition("Example")
    assert heading, text
    return [line.strip() for line in lines.partition(":\n")[2].replace("\\\n", " ").splitlines()]


def test_every_command_of_the_issue_is_there() -> None:
    assert {("recipes", "list"), ("presets", "show"), ("sweeps", "list"), ("doctor",)} <= set(COMMANDS)
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_cuts_nothing(words: tuple[str, ...]) -> None:
    text = page(*words)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert not re.search(r"[a-z]\.\.\.$", text, re.MULTILINE)
    assert not re.search(r"--?[a-z-]*-$", text, re.MULTILINE)  # an option's name broken at a hyphen
    assert page(*words, columns=300) == text  # not wider where the terminal is


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_examples_with_existing_options(words: tuple[str, ...]) -> None:
    lines = examples(page(*words))
    assert any(" ".join(("midalign", *words)) in line for line in lines)
    for line in lines:
        program, *rest = shlex.split(line.partition(" > ")[0])
        if program != "midalign":
            assert program in ("accelerate", "lm_eval")
            continue
        depth = max(n for n in range(len(rest) + 1) if tuple(rest[:n]) in COMMANDS)
        known = re.findall(r"--[a-z-]+", page(*rest[:depth]))
        assert {word for word in rest[depth:] if word.startswith("--")} <= set(known), line


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_short_help_flag_and_version_work_everywhere(words: tuple[str, ...]) -> None:
    assert page(*words, flag="-h") == page(*words)
    assert page(*words, flag="--version") == f"midalign {midalign.__version__}\n"


def test_commands_and_options_are_grouped_by_purpose() -> None:
    headings = re.compile(r"^(\S.*):$", re.MULTILINE)
    assert headings.findall(page()) == [
        *("Train and score", "Compare and combine", "Set up and check", "Look up", "Options", "Examples")
    ]
    sections = headings.split(page("eval"))
    by_heading = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert {"Models", "Tasks", "Prompts", "Reasoning models", "Records"} <= by_heading.keys()
    assert re.findall(r"^  (--\S+)", by_heading["Models"], re.MULTILINE) == [
        *("--base", "--adapter", "--adapters-only")
    ]
    # -h and --version alone have no purpose of their own.
    assert re.findall(r"^  (-\S+)", by_heading["Other options"], re.MULTILINE) == ["-h,", "--version"]


def test_midalign_train_is_the_same_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["midalign-train", "-h"])
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        train.main()
    shown = capsys.readouterr().out
    assert shown.replace("midalign-train [OPTIONS]", "midalign train [OPTIONS]") == page("train")
    assert page("train").count("midalign-train") == 1


@pytest.mark.parametrize(
    ("kind", "name", "line"),
    [
        ("recipes", "mini", "task: midalign_mini_slot"),
        ("presets", "paper", "scheduler: inverse_sqrt"),
        ("sweeps", "layer", "recipe: mini"),
    ],
)
def test_shipped_files_are_listed_and_shown(kind: str, name: str, line: str) -> None:
    listed = CliRunner().invoke(app, [kind, "list"]).output
    assert max(map(len, listed.splitlines())) <= 80
    (row,) = [row for row in listed.splitlines() if row.split()[0] == name]
    assert len(row.split()) > 3  # a line on it
    shown = CliRunner().invoke(app, [kind, "show", name]).output
    assert line in shown.splitlines()
    unknown = CliRunner().invoke(app, [kind, "show", f"{name}x"])
    assert f"Did you mean {name}?" in str(unknown.exception)
