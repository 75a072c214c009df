"""Translation data: directions, sides that belong together, splits that exist."""

from pathlib import Path

import pytest

from midalign.data import alma, mini, ntrex, wmt23
from midalign.data.segments import sides
from midalign.errors import TaskError
from midalign.languages import languages


@pytest.fixture
def added(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with the three sets, from the copies beside the checkout."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))
    for module, archive in (
        (wmt23, "wmt23/wmt23.tar.xz"),
        (ntrex, "ntrex/ntrex-128.tar.xz"),
        (alma, "alma/alma-human.tar.xz"),
    ):
        _, missing = module.add(shared_data / archive)
        assert missing == []


@pytest.mark.data
def test_wmt23_is_as_published(added: None) -> None:
    sizes = {direction: len(wmt23.read(direction, "test")) for direction in wmt23.directions()}
    # Segments; those between English and German are paragraphs.
    assert sizes == {
        **{"cs-uk": 2017, "de-en": 549, "en-cs": 2074, "en-de": 557, "en-he": 2074, "en-ja": 2074},
        **{"en-ru": 2074, "en-uk": 2074, "en-zh": 2074, "he-en": 1910, "ja-en": 1992, "ru-en": 1723},
        **{"uk-en": 1826, "zh-en": 1976},
    }
    for direction in wmt23.directions():
        assert all(one.source and one.target for one in wmt23.read(direction, "test"))


def test_wmt23_references_are_those_of_sacrebleu() -> None:
    from sacrebleu.dataset import DATASETS

    official = DATASETS["wmt23"]
    for direction in wmt23.directions():
        reference, _ = wmt23._files(direction, "test")
        (allowed,) = official._get_langpair_allowed_refs(direction)
        assert reference.split(".")[3] == allowed.removeprefix("ref:"), direction


@pytest.mark.data
def test_ntrex_reads_both_ways(added: None) -> None:
    there, back = ntrex.read("en-sw", "test"), ntrex.read("sw-en", "test")
    assert len(there) == len(back) == 1997
    assert [(one.source, one.target) for one in there] == [(one.target, one.source) for one in back]
    assert there[0].source.startswith("Welsh AMs worried about 'looking like muppets'")


@pytest.mark.data
def test_alma_holds_what_field_notes_say_of_it(added: None) -> None:
    assert [d[3:] for d in alma.directions() if d.startswith("en-")] == ["cs", "de", "is", "ru", "zh"]
    english = {one.source for one in ntrex.read("en-de", "test")}
    for code in ("cs", "de", "ru", "zh"):
        pairs = alma.read(f"{code}-en", "train")
        assert english <= {one.target for one in pairs}
    assert len(alma.read("en-is", "train")) == 2009
    assert len(alma.read("en-cs", "validation")) == len(alma.read("cs-en", "validation")) > 900
    with pytest.raises(TaskError, match="no split 'validation' of en-is"):
        alma.read("en-is", "validation")


def test_mini_segments_are_parallel_by_id() -> None:
    german = {item.id: item.utterance for item in mini.items("de", "test")}
    english = {item.id: item.utterance for item in mini.items("en", "test")}
    found = mini.read("en-de", "test")
    assert [(one.source, one.target) for one in found] == [(english[one.id], german[one.id]) for one in found]
    assert mini.digest("en-de", "test") != mini.digest("de-en", "test")


def test_ntrex_has_two_directions_a_reference() -> None:
    references = [row for row in languages().values() if row.codes["ntrex"]]
    assert len(ntrex.directions()) == 2 * len(references)


@pytest.mark.parametrize("direction", ["en", "en-", "-de", "en-de-fr"])
def test_what_is_no_direction(direction: str) -> None:
    with pytest.raises(TaskError, match="not a direction"):
        sides(direction)


def test_directions_and_splits_that_do_not_exist() -> None:
    with pytest.raises(TaskError, match=r"WMT23 has no direction 'en-dee'\. Did you mean en-de"):
        wmt23.read("en-dee", "test")
    with pytest.raises(TaskError, match="expected test"):
        wmt23.read("en-de", "train")
    with pytest.raises(TaskError, match="NTREX has no split 'train'"):
        ntrex.read("en-de", "train")
    with pytest.raises(TaskError, match="ALMA has no direction 'en-ja'"):
        alma.read("en-ja", "train")
