"""Data sets, one module each: download, verify, read.

The protocols say what the modules have. `midalign.data.registry` lists the modules.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from midalign.data.cache import FileSet
    from midalign.data.items import Item
    from midalign.data.segments import TranslatedSegment
    from midalign.data.uner import Sentence


class DataSet(Protocol):
    """Module of a data set."""

    LICENCE: str
    """The data's licence, in words."""
    CITATION: str
    """Authors, year and address of the paper."""

    @property
    def LEARNED_SPLIT(self) -> str | None:  # noqa: N802
        """The split that counts as training text under the data set's name. None: name its tasks instead."""


@runtime_checkable
class DownloadedData(DataSet, Protocol):
    """A data set that is not bundled."""

    FILES: "FileSet"
    """The files with their digests."""

    def add(self, path: Path) -> tuple[list[str], list[str]]:
        """Store the files found in a file, folder or archive. Returns the names of added and missing ones.

        Raises DataError if there are none, or if a file is not the published one.
        """


class TaskData(DataSet, Protocol):
    """A data set that tasks are made of. Its part is a language, a direction or a treebank."""

    def splits(self, part: str) -> list[str]:
        """Return those of train, validation and test that a part has."""

    def digest(self, part: str, split: str) -> str:
        """Return the sha256 of a split, which records carry. Raises TaskError if there is no such split."""


@runtime_checkable
class SlotData(TaskData, Protocol):
    """Utterances with intents and slots."""

    SHOT_SPLIT: str
    """The split that few-shot examples are drawn from."""
    PARALLEL: bool
    """True if items with the same id translate each other. Then they serve as sentence pairs too."""

    def items(self, language: str, split: str) -> "Sequence[Item]":
        """Return the items of a language in the publisher's order. Downloads them at first use.

        Raises TaskError for an unknown language or split, and DataError for missing or damaged data.
        """

    def labels(self, kind: Literal["intent", "slot"]) -> list[str]:
        """Return all intents or slots, the same in every language.

        Calls need the intents. Raises TaskError if the data set has no list of them.
        """


@runtime_checkable
class TranslationData(TaskData, Protocol):
    """Segments with their translations."""

    SHOT_SPLIT: str
    """The split that few-shot examples are drawn from, which may be ALMA's."""

    def directions(self) -> list[str]:
        """Return the directions, such as en-de, sorted."""

    def read(self, direction: str, split: str) -> "list[TranslatedSegment]":
        """Return the segments of a direction in the publisher's order. Downloads them at first use.

        Raises TaskError for an unknown direction or split, and DataError for missing or damaged data.
        """


@runtime_checkable
class EntityData(TaskData, Protocol):
    """Sentences with named entities."""

    @property
    def TYPES(self) -> tuple[str, ...]:  # noqa: N802
        """The types of entities."""

    def treebanks(self) -> Mapping[str, str]:
        """Return the language code of each treebank."""

    def sentences(self, treebank: str, split: str) -> "list[Sentence]":
        """Return the sentences of a treebank in the publisher's order. Downloads them at first use.

        Raises TaskError for an unknown treebank or split, and DataError for missing or damaged data.
        """

    def shots_from(self, language: str) -> tuple[str, str]:
        """Return the treebank and split that few-shot examples of a language are drawn from."""


@runtime_checkable
class PairData(DataSet, Protocol):
    """Sentence pairs with English."""

    SELECTION: int
    """Version of the choice of pairs. Raise it when the choice changes: recipes' digests contain it."""

    def pairs(self, language: str) -> list[tuple[str, str]]:
        """Return the (foreign, English) pairs of a language in the publisher's order.

        Raises DataError if the data set lacks the language.
        """
