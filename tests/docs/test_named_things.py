"""Files, names and commands that the documentation mentions exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from midalign.cli.app import app
from midalign.train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
WRITTEN = {"generated", "_build"}
SOURCES = sorted(path for path in (ROOT / "docs").rglob("*.md") if not WRITTEN & set(path.parts))
PLACES = r"(?:midalign|scripts|tests|tasks|harness_plugins|leaderboard|docs|constraints)"
FILE = rf"`({PLACES}/[\w./-]+\.(?:py|md|tsv|csv|json|yaml|sh|txt))`"
EXAMPLES = re.compile(r"atis|qa|server")
"""What the guides add as an example."""


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_files_exist_and_have_the_names_that_are_said_to_be_in_them(source: Path) -> None:
    text = source.read_text("utf-8")
    for file in re.findall(FILE, text):
        assert (ROOT / file).exists() or EXAMPLES.search(file), file
    for names, file in re.findall(rf"((?:`\w+`(?:, | and )?)+)\s+in\s+{FILE}", text):
        for name in re.findall(r"\w+", names.replace(" and ", " ")):
            assert re.search(rf"\b{name}\b", (ROOT / file).read_text("utf-8")), f"{name} in {file}"


def commands(language: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of all code blocks in a language, with their page."""
    for source in SOURCES:
        for block in re.findall(rf"^ *```{language}\n(.*?)^ *```", source.read_text("utf-8"), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                yield source.name, line.strip()


def parsed(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words begin with, and the rest."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    return command, words


def test_commands_have_their_options() -> None:
    checked = 0
    for page, line in commands("bash"):
        words = shlex.split(line, comments=True)
        if not words or words[0] not in ("midalign", "midalign-train"):
            continue
        command, rest = parsed(words[1:] if words[0] == "midalign" else ["train", *words[1:]])
        known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        for word in rest:
            assert not word.startswith("--") or word.partition("=")[0] in known, f"{page}: {line}"
        checked += 1
    assert checked > 25


def test_recipe_of_the_first_page_is_one(tmp_path: Path) -> None:
    """Its data sets are not read: only keys and types are checked."""
    for page in ("index.md", "train/first-recipe.md"):
        text = (ROOT / "docs" / page).read_text("utf-8")
        (block,) = re.findall(r"```yaml\n(# mine\.yaml\n.*?)```", text, re.S)
        (tmp_path / "mine.yaml").write_text(block, "utf-8")
        recipe = load_recipe(str(tmp_path / "mine.yaml"))
        assert (recipe.name, recipe.updates, recipe.aligned) == ("mine", 300, ["de", "sw"])


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {line.split()[1] for _, line in commands("bash") if line.startswith("make ")}
    assert targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)] == []
