"""Sentence pairs with English, the raw material of alignment."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from midalign.data import PairData
from midalign.data.items import Item
from midalign.data.registry import data_set, pair_sources, parallel_sources, slot_data
from midalign.data.text import read_lines
from midalign.errors import DataError, nearest
from midalign.languages import language as known_language
from midalign.languages import languages_of


def is_labelled(id: str, share: float) -> bool:
    """Return whether a training item belongs to the labelled share of its data set, by a hash of its id."""
    return int(hashlib.sha256(id.encode()).hexdigest()[:8], 16) < share * 16**8


def read_pairs(source: str, language: str, labelled_share: float = 0.0) -> list[tuple[str, str]]:
    """Return (foreign, English) pairs of a language without exact duplicates.

    Args:
        source: a data set of sentence pairs, or one whose items translate each other by id (then its training
            utterances are taken, without their annotations), or the path of files of lines
            `foreign TAB English` in which `{language}` stands for the code.
        language: code of `languages.tsv`.
        labelled_share: share of a parallel data set's items to exclude, because the task is trained on their
            labels.

    Raises:
        DataError: an unknown source, one without the language, or a file with a malformed line.
    """
    if language == "en":
        raise DataError("No pairs of 'en': English is the other side of every pair")
    if source in pair_sources():
        if language not in languages_of(source):
            raise DataError(f"{source} has no pairs of {language!r}. Expected {_alternatives(language)}")
        pairs = cast(PairData, data_set(source)).pairs(language)
    elif source in parallel_sources():
        items = slot_data(source).items
        unlabelled = [item for item in items(language, "train") if not is_labelled(item.id, labelled_share)]
        pairs = _pairs_by_id(unlabelled, items("en", "train"))
    elif "{language}" in source:
        pairs = _read_file(Path(source.replace("{language}", language)))
    else:
        names = pair_sources() + parallel_sources()
        raise DataError(
            f"No pairs {source!r}.{nearest(source, names)} Expected {', '.join(names)}, or the path of files "
            f"of lines foreign TAB English with {{language}} in it, such as pairs/{{language}}.tsv"
        )
    return list(dict.fromkeys(pairs))


def pairs_identity(source: str, languages: Sequence[str]) -> str:
    """Return a text that changes with a source's pairs of some languages, for the digest of a recipe.

    It is the sha256 of the pairs in files, or the name of a data set with its version of SELECTION.
    """
    if "{language}" in source:
        digest = hashlib.sha256()
        for language in languages:
            for foreign, english in read_pairs(source, language):
                digest.update(f"{language}\t{foreign}\t{english}\n".encode())
        return digest.hexdigest()
    selection = cast(PairData, data_set(source)).SELECTION if source in pair_sources() else 1
    return source if selection == 1 else f"{source} {selection}"


def _alternatives(language: str) -> str:
    """Name the sources that have pairs of a language with English."""
    row = known_language(language)
    names = [name for name in (*pair_sources(), *parallel_sources()) if row.codes[name]]
    file = "a file of lines foreign TAB English"
    return f"{', '.join(names)}, or {file}" if names else file


def _pairs_by_id(foreign: Sequence[Item], english: Sequence[Item]) -> list[tuple[str, str]]:
    english_by_id = {item.id: item.utterance for item in english}
    return [(item.utterance, english_by_id[item.id]) for item in foreign if item.id in english_by_id]


def _read_file(path: Path) -> list[tuple[str, str]]:
    lines = read_lines(path)
    if not any(line.strip() for line in lines):
        raise DataError(f"{path}, line 1: the file is empty; expected lines foreign TAB English")
    pairs = []
    for number, line in enumerate(lines, start=1):
        sides = [side.strip() for side in line.split("\t")]
        if len(sides) != 2 or not all(sides):
            raise DataError(f"{path}, line {number}: found {line[:60]!r}, expected foreign TAB English")
        pairs.append((sides[0], sides[1]))
    return pairs
