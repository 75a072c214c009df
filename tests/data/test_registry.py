"""The registry of data sets: each module fulfils the protocols of what it offers."""

import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest

from midalign.data import DownloadedData, EntityData, PairData, SlotData, TranslationData, registry, uner
from midalign.data.registry import (
    BUNDLED,
    DATA_SETS,
    DOWNLOADED,
    data_set,
    pair_sources,
    parallel_sources,
)
from midalign.errors import TaskError
from midalign.families import structured
from midalign.languages import languages
from midalign.leaderboard import load, sections

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
    assert parallel_sources() == ("massive", "mini")
    assert (*DOWNLOADED, BUNDLED) == DATA_SETS


def test_a_second_data_set_of_entities_needs_the_registry_only(monkeypatch: pytest.MonkeyPatch) -> None:
    second = SimpleNamespace(**{**vars(uner), "treebanks": lambda: {"de_atis": "de"}})
    monkeypatch.setattr(registry, "DATA_SETS", (*DATA_SETS, "atis"))
    monkeypatch.setitem(sys.modules, "midalign.data.atis", second)
    registry.treebanks.cache_clear()
    try:
        assert registry.treebanks() == {**uner.treebanks(), "de_atis": "de"}
        assert load.task_place("midalign_json_atis_de_atis", "de") == ("midalign_json_atis", "de_atis")
        assert sections.language_title("de_atis") == "German"
        assert structured.input_field({"source": "atis", "language": "de"}) == "text"
    finally:
        registry.treebanks.cache_clear()


@pytest.mark.parametrize(
    ("source", "field"),
    [("massive", "utterance"), ("xsid", "utterance"), ("uner", "text"), ("own_structured_a_0", "text")],
)
def test_input_field_of_structured_follows_from_the_data(source: str, field: str) -> None:
    assert structured.input_field({"source": source, "language": "de"}) == field


def test_data_sets_without_intents_say_so() -> None:
    assert len(registry.slot_data("massive").labels("intent")) == 60
    with pytest.raises(TaskError, match="no list of xSID's intents"):
        registry.slot_data("xsid").labels("intent")
