"""MASSIVE 1.1: utterances to an assistant in 52 locales."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Literal

from midalign.data import annotation, cache
from midalign.data.archive import members
from midalign.data.items import Item
from midalign.errors import DataError, TaskError, unknown_name
from midalign.languages import languages, languages_of

URL = "https://amazon-massive-nlu-dataset.s3.amazonaws.com/amazon-massive-dataset-1.1.tar.gz"
LICENCE = "CC BY 4.0"
CITATION = "FitzGerald et al. 2023, https://arxiv.org/abs/2204.08582"
LEARNED_SPLIT = SHOT_SPLIT = "train"
PARALLEL = True
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
FILES = cache.FileSet("massive")
"""One file per locale and split, `id TAB intent TAB utt TAB annot_utt LF` in the publisher's order."""


def items(language: str, split: str) -> list[Item]:
    """Return the items of a language and split in the publisher's order. Downloads the data set at first use.

    In ja, zh_cn and zh_tw, the annotation has blanks around spans that the utterance lacks. Values do not
    have these blanks: in all 52 locales they occur verbatim in the utterance.

    Raises TaskError for an unknown language or split, and DataError if the data is missing or altered.
    """
    file = _file(language, split)
    if not FILES.path(file).is_file():
        fetch()
    rows = (line.split("\t") for line in FILES.read(file).split("\n")[:-1])
    return [
        Item(id, intent, utterance, annotated, annotation.slots(annotated))
        for id, intent, utterance, annotated in rows
    ]


def splits(language: str) -> list[str]:
    """Return the splits, which all languages have."""
    return list(SPLITS)


def digest(language: str, split: str) -> str:
    """Return the published sha256 of a split."""
    return FILES.digests[_file(language, split)][1]


def labels(kind: Literal["intent", "slot"]) -> list[str]:
    """Return all 60 intents or 55 slots, the same in every locale, from massive_labels.tsv."""
    _, *rows = (files("midalign") / "data" / "massive_labels.tsv").read_text("utf-8").splitlines()
    return [name for label_kind, name in (row.split("\t") for row in rows) if label_kind == kind]


def add(path: Path) -> tuple[list[str], list[str]]:
    """Store the locales found in a file, folder or archive. Returns (added, missing) locales.

    Raises DataError if there are none, or if a file is not the published one.
    """
    locales = [languages()[code].codes["massive"] for code in languages_of("massive")]
    added = []
    for name, content in members(path, lambda name: name.removesuffix(".jsonl") in locales):
        locale = name.removesuffix(".jsonl")
        try:
            splits = _lines(content, f"{path}, {name}")
        except UnicodeError as error:
            raise DataError(f"{path}, {name}: not UTF-8 ({error})") from error
        for split, lines in splits.items():
            FILES.put(f"{locale}/{split}.tsv", lines, str(path))
        added.append(locale)
    if not added:
        raise DataError(f"{path} holds no file of MASSIVE; expected files such as en-US.jsonl")
    absent = {file.partition("/")[0] for file in FILES.digests if not FILES.path(file).is_file()}
    return added, [locale for locale in locales if locale in absent]


def fetch() -> None:
    """Download and store the whole data set."""
    FILES.fetch(URL, lambda: all(FILES.path(file).is_file() for file in FILES.digests), add)


def _lines(content: bytes, source: str) -> dict[str, bytes]:
    """Convert a locale's JSON lines to the stored form, by split."""
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    split_of = {partition: split for split, partition in SPLITS.items()}
    for number, line in enumerate(content.decode("utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
            fields = (row["id"], row["intent"], row["utt"], row["annot_utt"])
            splits[split_of[row["partition"]]].append("\t".join(fields) + "\n")
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{source}, line {number}: not a row of MASSIVE ({error})") from error
    return {split: "".join(lines).encode() for split, lines in splits.items()}


def _locale(language: str) -> str:
    if language not in languages_of("massive"):
        raise TaskError(unknown_name("MASSIVE", "language", language, languages_of("massive")))
    return languages()[language].codes["massive"]


def _file(language: str, split: str) -> str:
    if split not in SPLITS:
        raise TaskError(f"No split {split!r}; expected one of {', '.join(SPLITS)}")
    return f"{_locale(language)}/{split}.tsv"
