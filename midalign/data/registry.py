"""The list of data sets, and what each of them offers."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

from midalign.data import DataSet, DownloadedData, EntityData, PairData, SlotData, TranslationData

if TYPE_CHECKING:  # let mypy compare each module with its protocols
    from midalign.data import alma, flores, massive, mini, ntrex, tatoeba, uner, wmt23, xsid

    _DOWNLOADED: tuple[DownloadedData, ...] = (massive, tatoeba, ntrex, wmt23, alma, xsid, flores, uner)
    _SLOT: tuple[SlotData, ...] = (mini, massive, xsid)
    _TRANSLATION: tuple[TranslationData, ...] = (mini, ntrex, wmt23, alma, flores)
    _ENTITY: tuple[EntityData, ...] = (uner,)
    _PAIR: tuple[PairData, ...] = (tatoeba, ntrex)

DATA_SETS = ("massive", "tatoeba", "ntrex", "wmt23", "alma", "xsid", "flores", "uner", "mini")
"""Names of the modules, which are also columns of `languages.tsv`."""

REPUBLISHABLE = ("massive", "mini")
"""Data sets whose licence lets anyone publish excerpts under another licence: CC BY and Apache-2.0.
Share-alike licences, terms of research use and users' files do not."""

HUB_NAMES = {
    "massive": "AmazonScience/massive",
    "alma": "haoranxu/ALMA-Human-Parallel",
    "flores": "facebook/flores",
    "uner": "universalner/universal_ner",
}
"""Names of data sets that their authors publish on the Hugging Face hub, too."""

BUNDLED = "mini"
"""The data set in the package."""

DOWNLOADED = tuple(name for name in DATA_SETS if name != BUNDLED)


def data_set(name: str) -> DataSet:
    """Return the module of one of DATA_SETS."""
    return cast(DataSet, import_module(f"midalign.data.{name}"))


def republishable(name: str) -> bool:
    """Return whether outputs that quote a data set, or a user's file, may be published."""
    return name in REPUBLISHABLE


def downloaded_data(name: str) -> DownloadedData:
    """Return the module of one of DOWNLOADED."""
    return cast(DownloadedData, data_set(name))


def slot_data(name: str) -> SlotData:
    """Return a data set of utterances, or a user's file of them."""
    from midalign.data import own

    return cast(SlotData, own.OwnData(name) if own.is_own(name) else data_set(name))


def translation_data(name: str) -> TranslationData:
    """Return a data set of segments, or a user's file of them."""
    from midalign.data import own

    return cast(TranslationData, own.OwnData(name) if own.is_own(name) else data_set(name))


@cache
def pair_sources() -> tuple[str, ...]:
    """Return the names of the data sets of sentence pairs."""
    return tuple(name for name in DATA_SETS if isinstance(data_set(name), PairData))


@cache
def parallel_sources() -> tuple[str, ...]:
    """Return the names of the data sets whose items translate each other by id."""
    modules = {name: data_set(name) for name in DATA_SETS}
    return tuple(name for name, data in modules.items() if isinstance(data, SlotData) and data.PARALLEL)


@cache
def treebanks() -> dict[str, str]:
    """Return the language code of each treebank of all data sets with entities."""
    modules = [data_set(name) for name in DATA_SETS]
    return {
        treebank: code
        for data in modules
        if isinstance(data, EntityData)
        for treebank, code in data.treebanks().items()
    }


@dataclass(frozen=True)
class CacheState:
    """How much of a data set is in the cache."""

    name: str
    licence: str
    present: int
    files: int

    @property
    def complete(self) -> bool:
        """True if no file is missing."""
        return self.present == self.files


def cache_states() -> list[CacheState]:
    """Return the state of every data set in DOWNLOADED."""
    states = []
    for name in DOWNLOADED:
        data = downloaded_data(name)
        present = sum(data.FILES.path(file).is_file() for file in data.FILES.digests)
        states.append(CacheState(name, data.LICENCE, present, len(data.FILES.digests)))
    return states
