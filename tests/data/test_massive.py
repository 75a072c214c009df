"""MASSIVE from local copies of every form, verified; rows as the publisher has them."""

import errno
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from midalign.data import massive, ntrex, tatoeba
from midalign.data.annotation import plain
from midalign.data.pairs import read_pairs
from midalign.errors import DataError, TaskError
from midalign.languages import languages
from midalign.metrics.script import in_script


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
        (swahili[:1000] + b"\xff" + swahili[1000:], "sw-KE.jsonl: not UTF-8"),
        (b'{"id": "1", "partition": "test", "intent": "a", "utt": "\\ud800", "annot_utt": ""}', "not UTF-8"),
    ]:
        with pytest.raises(DataError, match=message):
            massive.add(pack(tmp_path, "gz", content))
    truncated = pack(tmp_path, "gz", swahili)
    truncated.write_bytes(truncated.read_bytes()[:-1000])
    with pytest.raises(DataError, match="damaged or truncated"):
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
    with pytest.raises(DataError, match=r"holds no file of tatoeba; expected files such as tatoeba\."):
        tatoeba.add(tmp_path / "file.txt")


@pytest.mark.parametrize("name", ["._sw-KE.jsonl", "xx-XX.jsonl"])
def test_a_file_that_is_no_locale_is_passed_over(own_cache, tmp_path, name):
    """macOS puts `._NAME` beside each NAME of an archive; other locales may come with a later release."""
    with pytest.raises(DataError, match="holds no file of MASSIVE"):
        massive.add(pack(tmp_path, "tar", b"\x00\x05\x16\x07", name))


def test_what_cannot_be_read(own_cache, tmp_path, monkeypatch):
    path = tmp_path / "sw-KE.jsonl"
    path.write_bytes(b"")

    def refused(*_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DataError, match=r"sw-KE.jsonl cannot be read \(Permission denied\)"):
        massive.add(path)


def test_a_zip_with_a_password_is_refused(own_cache, tmp_path):
    path = pack(tmp_path, "zip", b"{}")
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="password required"):
        massive.add(path)


@pytest.mark.data
def test_a_locale_without_one_of_its_splits_is_missing(own_cache, tmp_path, shared_data, swahili):
    massive.add(pack(tmp_path, "gz", swahili))
    os.unlink(massive.FILES.path("sw-KE/train.tsv"))
    assert "sw-KE" in massive.add(shared_data / "massive/1.1/data/af-ZA.jsonl.xz")[1]


@pytest.mark.data
def test_two_processes_add_at_once(own_cache, tmp_path, shared_data, swahili):
    path = pack(tmp_path, "gz", swahili)
    command = [sys.executable, "-m", "midalign", "data", "add", "massive", str(path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert ["massive: added sw-KE" in process.communicate(timeout=60)[0] for process in processes] == [
        True
    ] * 2
    assert len(massive.items("sw", "train")) == 11514
    assert sorted(file.name for file in (own_cache / "massive/sw-KE").iterdir()) == [
        "test.tsv",
        "train.tsv",
        "validation.tsv",
    ]


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
        for split in massive.SPLITS if row.codes["massive"] else ():
            for item in massive.items(row.code, split):
                values += len(item.slots)
                start = 0
                for _, value in item.slots:
                    start = item.utterance.index(value, start) + len(value)
                blanks = "" if row.code in ("ja", "zh_cn", "zh_tw") else " "
                assert blanks.join(plain(item.annotated).split()) == blanks.join(item.utterance.split())
    assert values == 833_184


@pytest.mark.data
def test_translations(shared_data, own_cache):
    assert len(tatoeba.add(shared_data / "tatoeba/tatoeba-v1.tar.xz")[0]) == 224
    assert len(ntrex.add(shared_data / "ntrex")[0]) == 129  # a folder that holds the archive
    assert len(tatoeba.pairs("sw")) == 390
    # Half of `cmn` is Traditional Chinese, a third of `srp` Cyrillic.
    assert all(in_script(foreign, "Hans") for foreign, _ in tatoeba.pairs("zh_cn"))
    kept = {code: len(tatoeba.pairs(code)) for code in ("zh_cn", "sr_latn", "uz", "lfn", "de")}
    assert kept == {"zh_cn": 519, "sr_latn": 699, "uz": 299, "lfn": 725, "de": 1000}
    assert ("Usivute sigara kitandani.", "Don't smoke in bed.") in read_pairs("tatoeba", "sw")
    assert len(ntrex.pairs("cy")) == 1997
    with pytest.raises(DataError, match=r"tatoeba has no pairs of 'kn'\. Expected ntrex, massive, or a file"):
        read_pairs("tatoeba", "kn")
