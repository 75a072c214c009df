"""MASSIVE from local copies of every form, verified; rows as the publisher has them."""

import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pytest

from midalign.data import massive, ntrex, tatoeba
from midalign.data.annotation import plain, slots
from midalign.data.pairs import pairs
from midalign.errors import DataError, TaskError
from midalign.languages import languages


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def swahili(shared_data):
    return lzma.decompress((shared_data / "massive/1.1/data/sw-KE.jsonl.xz").read_bytes())


def pack(folder, form, content, name="sw-KE.jsonl"):
    path = folder / f"copy.{form}"
    if form == "folder":
        (path / "deep").mkdir(parents=True)
        (path / "deep" / name).write_bytes(content)
    elif form == "gz":
        path = folder / f"{name}.gz"
        path.write_bytes(gzip.compress(content, 1))
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"../../{name}", content)
    else:
        with tarfile.open(path, f"w:{form.removeprefix('tar.')}" if "." in form else "w") as archive:
            member = tarfile.TarInfo(f"../../1.1/data/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.data
@pytest.mark.parametrize("form", ["folder", "gz", "zip", "tar", "tar.gz"])
def test_every_form_of_a_local_copy(own_cache, tmp_path, swahili, form):
    added, missing = massive.add(pack(tmp_path, form, swahili))
    assert added == ["sw-KE"]
    assert len(missing) == 51
    assert [len(massive.items("sw", split)) for split in massive.SPLITS] == [11514, 2033, 2974]
    # A path that climbs out of the archive is a name and nothing more.
    assert {path.name for path in tmp_path.iterdir()} <= {"cache", f"copy.{form}", "sw-KE.jsonl.gz"}


@pytest.mark.data
def test_rows_are_the_publishers(own_cache, tmp_path, swahili):
    massive.add(pack(tmp_path, "gz", swahili))
    rows = [json.loads(line) for line in swahili.decode().splitlines()]
    for split, partition in massive.SPLITS.items():
        expected = [r for r in rows if r["partition"] == partition]
        for item, row in zip(massive.items("sw", split), expected, strict=True):
            assert (item.id, item.intent, item.utterance, item.annotated) == (
                row["id"],
                row["intent"],
                row["utt"],
                row["annot_utt"],
            )


@pytest.mark.data
def test_altered_and_cut_copies_are_refused_and_not_stored(own_cache, tmp_path, swahili):
    altered = swahili.replace(b"alarm_set", b"alarm_sat", 1)
    for content, message in [
        (altered, "2,974 lines, sha256 .*; expected 2,974 lines"),
        (swahili[: swahili.rindex(b"\n", 0, -1) + 1], "; expected"),
        (swahili[:-50], "line 16521: not a row of MASSIVE"),
        (b"[]\n", "line 1: not a row of MASSIVE"),
    ]:
        with pytest.raises(DataError, match=message):
            massive.add(pack(tmp_path, "gz", content))
    truncated = pack(tmp_path, "gz", swahili)
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    with pytest.raises(DataError, match="damaged or cut short"):
        massive.add(truncated)
    with pytest.raises(DataError, match="midalign data add massive PATH"):
        massive.items("sw", "test")


@pytest.mark.data
def test_a_stored_file_that_changes_later_is_found_out(own_cache, tmp_path, swahili):
    massive.add(pack(tmp_path, "gz", swahili))
    path = massive.FILES.path("sw-KE/test.tsv")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        DataError, match=r"sw-KE/test.tsv has 2,973 lines.*expected 2,974 lines.*rm .*test.tsv"
    ):
        massive.items("sw", "test")


def test_what_is_no_copy(own_cache, tmp_path):
    with pytest.raises(DataError, match="No file or folder"):
        massive.add(tmp_path / "nothing")
    (tmp_path / "file.txt").write_text("hello")
    with pytest.raises(DataError, match="holds no file of MASSIVE"):
        massive.add(tmp_path / "file.txt")


def test_names(own_cache):
    with pytest.raises(TaskError, match=r"no language .zh_ch.\. Did you mean zh_cn"):
        massive.items("zh_ch", "test")
    with pytest.raises(TaskError, match="No split 'dev'"):
        massive.items("sw", "dev")


@pytest.mark.slow
@pytest.mark.data
def test_all_locales_carry_digests_and_their_values_stand_in_the_utterances(shared_data, own_cache):
    added, missing = massive.add(shared_data / "massive")
    assert (len(added), missing) == (52, [])
    values = 0
    for row in languages().values():
        for split in massive.SPLITS if row.massive else ():
            for item in massive.items(row.code, split):
                values += len(item.slots)
                assert all(value in item.utterance for _, value in item.slots)
                if row.massive not in massive.UNSPACED:
                    assert " ".join(plain(item.annotated).split()) == " ".join(item.utterance.split())
    assert values == 833_184


@pytest.mark.data
def test_translations(shared_data, own_cache):
    assert len(tatoeba.add(shared_data / "tatoeba/tatoeba-v1.tar.xz")[0]) == 224
    assert len(ntrex.add(shared_data / "ntrex/ntrex-128.tar.xz")[0]) == 129
    assert len(tatoeba.pairs("sw")) == 390
    assert ("Usivute sigara kitandani.", "Don't smoke in bed.") in pairs("tatoeba", "sw")
    assert len(ntrex.pairs("cy")) == 1997
    with pytest.raises(DataError, match="tatoeba has no pairs of 'kn'"):
        pairs("tatoeba", "kn")


def test_slots_of_an_annotation():
    text = "wake me at [time : nine am] on [date : the 5th : maybe]"
    assert slots(text) == (("time", "nine am"), ("date", "the 5th : maybe"))
    assert plain(text) == "wake me at nine am on the 5th : maybe"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the file is empty"),
        ("a\tb\nc\n", "line 2: found 'c'"),
        ("a\t \n", "line 1"),
        ("a\tb\tc", "line 1"),
    ],
)
def test_malformed_pair_files(tmp_path, text, message):
    (tmp_path / "sw.tsv").write_text(text)
    with pytest.raises(DataError, match=message):
        pairs(str(tmp_path / "{language}.tsv"), "sw")


def test_pair_file(tmp_path):
    (tmp_path / "sw.tsv").write_text("jambo\thello\njambo\thello\nmaji\twater\n")
    assert pairs(str(tmp_path / "{language}.tsv"), "sw") == [("jambo", "hello"), ("maji", "water")]
