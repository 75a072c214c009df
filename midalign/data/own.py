"""Users' own data: JSON lines, checked and stored in the cache.

`slot:PATH`, `translation:PATH` and `structured:PATH` stand for a group with a task per language. The group is
named `own_<family>_<file>_<first eight digits of the sha256>`, so the same name always means the same data.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from midalign.data import annotation
from midalign.data.cache import cache_folder, write_to_cache
from midalign.data.items import Item
from midalign.data.segments import TranslatedSegment, sides
from midalign.data.text import read_text
from midalign.errors import DataError, TaskError
from midalign.languages import language as known_language
from midalign.metrics.slot import target
from midalign.metrics.structured import entities

Split = Literal["train", "validation", "test"]

PREFIX = "own_"
"""Prefix of the names of groups and tasks from users' files."""


def _line(text: str) -> str:
    if not text.strip() or len(text.splitlines()) > 1:
        raise ValueError("expected one line of text")
    return text.strip()


def _label(text: str) -> str:
    if not text or re.search(r"[\s:;\[\]{}\"]", text):
        raise ValueError("expected a name without blanks, quotes, colons, semicolons and brackets")
    return text


def _value(text: str) -> str:
    if re.search(r"[;\[\]]", text):
        raise ValueError("expected a value without semicolons and brackets")
    return text


Line = Annotated[str, AfterValidator(_line)]
Label = Annotated[str, AfterValidator(_label)]
Value = Annotated[Line, AfterValidator(_value)]


class StrictModel(BaseModel):
    """A part of a row. Unknown keys are rejected. Otherwise a typo would be silently ignored."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OwnRow(StrictModel):
    """The fields that rows of all families have."""

    language: str
    """A code of `midalign data languages`, or a direction such as en-de for translation."""
    split: Split = "test"
    id: str = ""
    """The number of the line by default."""

    @property
    def answer(self) -> str:
        """The right answer, as tasks expect it."""
        raise NotImplementedError


class Slot(StrictModel):
    """One slot."""

    slot: Label
    value: Value


class SlotRow(OwnRow):
    """A row of slot filling: the slots in order of appearance."""

    utterance: Line
    slots: list[Slot]

    @property
    def answer(self) -> str:
        """The right answer."""
        return target([(slot.slot, slot.value) for slot in self.slots])

    @property
    def item(self) -> Item:
        """The row as an item. Raises ValueError unless the values occur in the utterance in this order."""
        # Each value is searched after the one before it, and written as `[slot : value]`.
        pieces, end = [], 0
        for slot in self.slots:
            start = self.utterance.find(slot.value, end)
            if start < 0:
                raise ValueError(
                    f"{slot.slot}: {slot.value!r} does not occur in the utterance after the slot before it; "
                    f"expected slots in order of appearance"
                )
            pieces += [self.utterance[end:start].strip(), f"[{slot.slot} : {slot.value}]"]
            end = start + len(slot.value)
        annotated = " ".join(piece for piece in (*pieces, self.utterance[end:].strip()) if piece)
        slots = tuple((slot.slot, slot.value) for slot in self.slots)
        if annotation.slots(annotated) != slots:
            raise ValueError("the utterance contains brackets that read as [slot : value]")
        return Item(self.id, "", self.utterance, annotated, slots)


class TranslationRow(OwnRow):
    """A row of translation."""

    source: Line
    target: Line

    @property
    def answer(self) -> str:
        """The right answer."""
        return self.target

    @property
    def segment(self) -> TranslatedSegment:
        """The row as a segment."""
        return TranslatedSegment(self.id, self.source, self.target)


class Entity(StrictModel):
    """One entity."""

    type: Label
    text: Line


class EntityRow(OwnRow):
    """A row of JSON-structured generation: the entities in order of appearance."""

    text: Line
    entities: list[Entity]

    @property
    def answer(self) -> str:
        """The right answer."""
        return entities([(entity.type, entity.text) for entity in self.entities])


ROWS: dict[str, type[OwnRow]] = {"slot": SlotRow, "translation": TranslationRow, "structured": EntityRow}
"""The model of a line of a file, by family."""

EXAMPLES = {
    "slot": '{"language": "de", "utterance": "um neun", "slots": [{"slot": "time", "value": "neun"}]}',
    "translation": '{"language": "en-de", "source": "good morning", "target": "guten Morgen"}',
    "structured": '{"language": "de", "text": "Ada in Ulm", "entities": [{"type": "PER", "text": "Ada"}]}',
}
"""A line with the required keys, by family. `split` and `id` are optional."""


def is_spec(name: str) -> bool:
    """Return whether a name has the form `family:PATH`."""
    return name.partition(":")[0] in ROWS and ":" in name


def is_own(name: str) -> bool:
    """Return whether a group, task or data set comes from a user's file."""
    return name.startswith(PREFIX)


def add_file(spec: str) -> str:
    """Check and store the file of `family:PATH`. Returns the name of its group.

    Raises DataError with file and line for a file that cannot be read or an invalid row.
    """
    family, _, path = spec.partition(":")
    content = read_text(Path(path).expanduser())
    rows = parse_rows(family, content, path)
    if not rows:
        raise DataError(f"{path} has no rows; expected one JSON object per line")
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    stem = re.sub(r"[^a-z0-9]+", "-", Path(path).stem.lower()).strip("-")[:40] or "data"
    name = f"{PREFIX}{family}_{stem}_{digest}"
    if not _file(name).is_file():
        write_to_cache(_file(name), content.encode())
    return name


def parse_rows(family: str, content: str, path: str) -> list[OwnRow]:
    """Return the rows of a file's text, each with an id. Raises DataError with file and line."""
    rows: list[OwnRow] = []
    seen: dict[tuple[str, str, str], int] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = ROWS[family].model_validate(json.loads(line))
            row = row.model_copy(update={"id": row.id or str(number)})
            _check(family, row)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{where}: not JSON ({error}): {line[:60]!r}") from error
        except ValidationError as error:
            raise DataError(f"{where}: {_explain(family, error)}") from error
        except (ValueError, TaskError) as error:
            raise DataError(f"{where}: {error}") from error
        first = seen.setdefault((row.language, row.split, row.id), number)
        if first != number:
            raise DataError(f"{where}: duplicate id {row.id!r}, which line {first} of this split has too")
        rows.append(row)
    return rows


def _check(family: str, row: OwnRow) -> None:
    """Raise ValueError or TaskError for a row that is well-formed but wrong."""
    codes = sides(row.language) if family == "translation" else [row.language]
    for code in codes:
        known_language(code)
    if isinstance(row, SlotRow):
        _ = row.item
    if isinstance(row, EntityRow):
        for entity in row.entities:
            if entity.text not in row.text:
                raise ValueError(f"{entity.type}: {entity.text!r} does not occur in the text")


def _explain(family: str, error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(map(str, problem["loc"]))
    forms = {
        "missing": f"{where} is missing",
        "extra_forbidden": f"unknown key {where}",
        "model_type": f"{where or 'the line'} is not an object",
    }
    if problem["type"] in forms:
        return f"{forms[problem['type']]}; expected {EXAMPLES[family]}"
    return f"{where}: found {problem['input']!r}, {problem['msg'].removeprefix('Value error, ')}"


def _file(name: str) -> Path:
    return cache_folder() / "own" / f"{name}.jsonl"


def split_name(name: str) -> tuple[str, str]:
    """Return (group, language) of the name of a task or group. The language of a group is empty.

    Raises TaskError for any other name.
    """
    parts = name.split("_", 4)
    if len(parts) < 4 or parts[1] not in ROWS or not re.fullmatch(r"[\w.-]+", name):
        raise TaskError(f"No task {name!r}; expected own_<family>_<file>_<digest>_<language>")
    return "_".join(parts[:4]), parts[4] if len(parts) == 5 else ""


@dataclass(frozen=True)
class OwnData:
    """A user's file as a data set: it has the members of SlotData or TranslationData that its tasks use."""

    name: str

    SHOT_SPLIT = "train"
    PARALLEL = False

    @property
    def family(self) -> str:
        """One of ROWS."""
        return self.name.split("_")[1]

    @property
    def languages(self) -> list[str]:
        """Languages or directions in the order of the file."""
        return list(dict.fromkeys(row.language for row in _rows(self.name)))

    def splits(self, language: str) -> list[str]:
        """Return the splits (train, validation, test) that a language has."""
        have = {row.split for row in _rows(self.name) if row.language == language}
        return [split for split in get_args(Split) if split in have]

    def rows(self, language: str, split: str) -> Sequence[Any]:
        """Return the rows of a split in the order of the file. Raises TaskError if there are none."""
        rows = [row for row in _rows(self.name) if (row.language, row.split) == (language, split)]
        if not rows:
            raise TaskError(
                f"{self.name} has no rows in {language} for {split}, only for "
                f"{', '.join(self.splits(language)) or 'other languages'}. Rows without a split belong to "
                f'test. For another: "split": "train"'
            )
        return rows

    def items(self, language: str, split: str) -> list[Item]:
        """Return utterances with their slots. Raises like `rows`."""
        return [row.item for row in self.rows(language, split)]

    def read(self, direction: str, split: str) -> list[TranslatedSegment]:
        """Return sources with their translations. Raises like `rows`."""
        return [row.segment for row in self.rows(direction, split)]

    def labels(self, kind: Literal["slot", "type"]) -> list[str]:
        """Return all slots or entity types in the file, sorted."""
        if kind == "slot":
            slots = (slot for row in _rows(self.name) if isinstance(row, SlotRow) for slot in row.slots)
            return sorted({slot.slot for slot in slots})
        texts = (row for row in _rows(self.name) if isinstance(row, EntityRow))
        return sorted({entity.type for row in texts for entity in row.entities})

    def digest(self, language: str, split: str) -> str:
        """Return the sha256 of the rows of a split. Raises like `rows`."""
        lines = (row.model_dump_json() for row in self.rows(language, split))
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def longest(self, language: str) -> int:
        """Return the length of the longest answer in a language, in UTF-8 bytes."""
        return max(len(row.answer.encode()) for row in _rows(self.name) if row.language == language)


@cache
def _rows(name: str) -> list[OwnRow]:
    path = _file(name)
    if not path.is_file():
        raise TaskError(
            f"{name} is not in the cache {path.parent}. Give the path of its file: {name.split('_')[1]}:PATH"
        )
    content = read_text(path)
    if hashlib.sha256(content.encode()).hexdigest()[:8] != name.split("_")[3]:
        raise DataError(f"{path} was altered. Remove it, and give the path of the original file again")
    return parse_rows(name.split("_")[1], content, str(path))
