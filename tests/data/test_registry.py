"""The registry of data sets: each module fulfils the protocols of what it offers."""

import inspect
from types import ModuleType

import pytest

from midalign.data import DownloadedData, EntityData, PairData, SlotData, TranslationData
from midalign.data.registry import (
    BUNDLED,
    DATA_SETS,
    DOWNLOADED,
    data_set,
    pair_sources,
    parallel_sources,
)
from midalign.languages import languages

OFFERS = {
    "mini": {SlotData, TranslationData},
    "massive": {SlotData},
    "tatoeba": {PairData},
    "ntrex": {PairData, TranslationData},
    "wmt23": {TranslationData},
    "alma": {TranslationData},
    "xsid": {SlotData},
    "flores": {TranslationData},
    "uner": {EntityData},
}
PROTOCOLS = (DownloadedData, SlotData, TranslationData, EntityData, PairData)


def test_every_data_set_has_a_column_of_languages_and_the_other_way_round() -> None:
    columns = {column for row in languages().values() for column in row.codes}
    assert columns == set(DATA_SETS)


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_module_offers_what_its_data_is_for(name: str) -> None:
    data = data_set(name)
    fulfilled = {protocol for protocol in PROTOCOLS if isinstance(data, protocol)}
    assert fulfilled == OFFERS[name] | ({DownloadedData} if name in DOWNLOADED else set())
    assert data.LICENCE
    assert data.CITATION
    assert data.LEARNED_SPLIT in (None, "train", "test")


@pytest.mark.parametrize("name", DATA_SETS)
def test_functions_take_the_arguments_of_their_protocol(name: str) -> None:
    data = data_set(name)
    assert isinstance(data, ModuleType)
    for protocol in (protocol for protocol in PROTOCOLS if isinstance(data, protocol)):
        for member, function in inspect.getmembers(protocol, inspect.isfunction):
            if not member.startswith("_"):
                _, *expected = inspect.signature(function).parameters
                assert len(inspect.signature(getattr(data, member)).parameters) == len(expected), member


def test_sources_of_pairs() -> None:
    assert pair_sources() == ("tatoeba", "ntrex")
    assert parallel_sources() == ("mini", "massive")
    assert (BUNDLED, *DOWNLOADED) == DATA_SETS
