"""Sentence pairs with English, the raw material of alignment."""

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from midalign.data.items import Item
from midalign.data.text import read_lines
from midalign.errors import DataError, nearest

TRANSLATIONS = ("tatoeba", "ntrex")
"""Data sets of sentence pairs."""

PARALLEL = ("massive", "mini")
"""Task data whose training utterances translate each other by id; their annotations are not looked at."""


SELECTIONS = {"tatoeba": 2}
"""Versions of how pairs are chosen from a data set, where that has changed. 2: in the language's script."""


def pairs(source: str, language: str) -> list[tuple[str, str]]:
    """Return (foreign, English) pairs of a language without exact duplicates.

    Args:
        source: one of TRANSLATIONS or PARALLEL, or the path of files of lines `foreign TAB English` in which
            `{language}` stands for the code: without it, one file would serve as every language.

    Raises:
        DataError: an unknown source, one without the language, or a file with a malformed line.
    """
    if language == "en":
        raise DataError("No pairs of 'en': English is the other side of every pair")
    if source in TRANSLATIONS:
        found: list[tuple[str, str]] = import_module(f"midalign.data.{source}").pairs(language)
    elif source in PARALLEL:
        found = _by_id(items(source, language, "train"), items(source, "en", "train"))
    elif "{language}" in source:
        found = _read(Path(source.replace("{language}", language)))
    else:
        names = TRANSLATIONS + PARALLEL
        raise DataError(
            f"No pairs {source!r}.{nearest(source, names)} Expected {', '.join(names)}, or the path of files "
            f"of lines foreign TAB English with {{language}} in it, such as pairs/{{language}}.tsv"
        )
    return list(dict.fromkeys(found))


def identity(source: str, languages: Sequence[str]) -> str:
    """Return what tells a source's pairs of these languages from others.

    A data set's name and version of SELECTIONS, or the sha256 of the pairs in files.
    """
    if "{language}" not in source:
        return f"{source} {SELECTIONS[source]}" if source in SELECTIONS else source
    found = hashlib.sha256()
    for language in languages:
        for foreign, english in pairs(source, language):
            found.update(f"{language}\t{foreign}\t{english}\n".encode())
    return found.hexdigest()


def items(source: str, language: str, split: str) -> list[Item]:
    """Return items of one of PARALLEL."""
    found: list[Item] = import_module(f"midalign.data.{source}").items(language, split)
    return found


def _by_id(foreign: list[Item], english: list[Item]) -> list[tuple[str, str]]:
    known = {item.id: item.utterance for item in english}
    return [(item.utterance, known[item.id]) for item in foreign if item.id in known]


def _read(path: Path) -> list[tuple[str, str]]:
    lines = read_lines(path)
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}, line 1: the file is empty; expected lines foreign TAB English")
    found = []
    for number, line in enumerate(lines, start=1):
        sides = [side.strip() for side in line.split("\t")]
        if len(sides) != 2 or not all(sides):
            raise DataError(f"{path}, line {number}: found {line[:60]!r}, expected foreign TAB English")
        found.append((sides[0], sides[1]))
    return found
