"""FLORES-200 from a small archive in its layout: directions, splits, files that do not belong together."""

import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from midalign.data import flores
from midalign.errors import DataError, TaskError
from midalign.families import translation
from midalign.languages import languages

SENTENCES = {
    "eng_Latn.dev": ["On Monday it rained.", "The bridge is closed.", "They left early."],
    "deu_Latn.dev": ["Am Montag hat es geregnet.", "Die Brücke ist gesperrt.", "Sie gingen früh."],
    "eng_Latn.devtest": ["The river is high.", "Nobody was hurt."],
    "deu_Latn.devtest": ["Der Fluss steht hoch.", "Niemand wurde verletzt."],
    "arb_Arab.devtest": ["منسوب النهر مرتفع.", "لم يصب أحد."],
    "zho_Hant.devtest": ["河水很高。", "沒有人受傷。"],
}
Contents = dict[str, bytes]


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def contents() -> Contents:
    return {name: "".join(f"{line}\n" for line in lines).encode() for name, lines in SENTENCES.items()}


@pytest.fixture
def pack(tmp_path: Path) -> Callable[[Contents], Path]:
    """An archive in the publisher's layout."""

    def write(contents: Contents) -> Path:
        path = tmp_path / "flores200_dataset.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, content in {**contents, "README": b"FLORES-200", "._eng_Latn.dev": b"\0"}.items():
                member = tarfile.TarInfo(f"./flores200_dataset/{name.rpartition('.')[2]}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write


def test_directions_are_to_and_from_english() -> None:
    assert (
        len(flores.directions())
        == 406
        == 2 * (len([r for r in languages().values() if r.codes["flores"]]) - 1)
    )
    assert {"en-zh_tw", "zh_tw-en", "en-ace_arab", "ar_latn-en"} <= set(flores.directions())
    assert {lines for lines, _ in flores.FILES.digests.values()} == {997, 1012}


def test_a_copy_is_added_by_the_command_and_read_both_ways(
    own_cache: Path, contents: Contents, pack: Callable[[Contents], Path]
) -> None:
    command = [sys.executable, "-m", "midalign", "data", "add", "flores", str(pack(contents))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "flores: added eng_Latn.dev, deu_Latn.dev, eng_Latn.devtest" in done.stdout
    assert "still missing: ace_Arab.dev" in done.stdout
    assert "2 lines in each .devtest file, where FLORES-200 has 1012" in done.stderr
    there, back = flores.read("en-de", "validation"), flores.read("de-en", "validation")
    assert [(one.source, one.target) for one in there] == list(
        zip(SENTENCES["eng_Latn.dev"], SENTENCES["deu_Latn.dev"], strict=True)
    )
    assert [(one.source, one.target) for one in back] == [(one.target, one.source) for one in there]
    assert [one.id for one in flores.read("zh_tw-en", "test")] == ["flores-devtest-0", "flores-devtest-1"]
    both = [hashlib.sha256(contents[f"{code}.devtest"]).hexdigest() for code in ("eng_Latn", "arb_Arab")]
    assert flores.digest("en-ar", "test") == hashlib.sha256("".join(both).encode()).hexdigest()
    splits = translation.dataset(source="flores", language="en-de", version=1, family="translation")
    assert (len(splits["test"]), len(splits["validation"])) == (2, 3)
    assert splits["shots"]["target"][:] == SENTENCES["deu_Latn.dev"]
    assert splits["test"][0]["target_name"] == "German"


def test_marks_and_carriage_returns_make_no_difference(
    own_cache: Path, contents: Contents, pack: Callable[[Contents], Path]
) -> None:
    flores.add(pack(contents))
    before = flores.read("en-de", "test"), flores.digest("en-de", "test")
    windows = {name: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") for name, text in contents.items()}
    flores.add(pack(windows))
    assert (flores.read("en-de", "test"), flores.digest("en-de", "test")) == before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"Niemand wurde verletzt.\n",
            b"",
            r"eng_Latn.devtest has 2 lines and deu_Latn.devtest 1; expected equal",
        ),
        (b"Niemand wurde verletzt.", b" ", r"deu_Latn.devtest, line 2: empty; expected a sentence"),
        ("ü".encode(), b"\xfc", r"deu_Latn.dev: not UTF-8"),
    ],
)
def test_files_that_do_not_belong_together(
    own_cache: Path,
    contents: Contents,
    pack: Callable[[Contents], Path],
    old: bytes,
    new: bytes,
    message: str,
) -> None:
    assert any(old in content for content in contents.values())
    damaged = {name: content.replace(old, new) for name, content in contents.items()}
    with pytest.raises(DataError, match=message):
        flores.add(pack(damaged))
    assert not own_cache.exists()


def test_copies_that_were_added_one_after_the_other_may_not_fit(
    own_cache: Path, contents: Contents, tmp_path: Path
) -> None:
    for name in ("eng_Latn.devtest", "deu_Latn.devtest"):
        content = contents[name] if name.startswith("eng") else contents[name] + b"Noch ein Satz.\n"
        (tmp_path / name).write_bytes(content)
        flores.add(tmp_path / name)
    with pytest.raises(DataError, match=r"eng_Latn.devtest has 2 lines and deu_Latn.devtest 3; .*data add"):
        flores.read("en-de", "test")


def test_a_stored_file_that_changes_later_is_found_out(
    own_cache: Path, contents: Contents, pack: Callable[[Contents], Path]
) -> None:
    flores.add(pack(contents))
    path = flores.FILES.path("deu_Latn.devtest")
    path.write_bytes(path.read_bytes().replace(b"Fluss", b"Bach!"))
    with pytest.raises(DataError, match=r"deu_Latn.devtest has 2 lines, sha256 .*rm .*data add flores PATH"):
        flores.read("en-de", "test")


def test_a_download_must_be_the_official_archive(
    own_cache: Path,
    contents: Contents,
    pack: Callable[[Contents], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Served from the machine itself; the digest is what several projects have published."""
    path = pack(contents)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(flores, "URL", path.as_uri())
    with pytest.raises(DataError, match=rf"was rejected: .*expected {flores.SHA256[:16]}"):
        flores.read("en-de", "test")
    monkeypatch.setattr(flores, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(flores.read("en-de", "test")) == 2


def test_directions_splits_and_files_that_do_not_exist(own_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"FLORES-200 has no direction 'en-dee'\. Did you mean .*en-de"):
        flores.read("en-dee", "test")
    with pytest.raises(TaskError, match="FLORES-200 has no direction 'de-fr'"):
        flores.read("de-fr", "test")
    with pytest.raises(TaskError, match="no split 'dev'; expected validation or test"):
        flores.read("en-de", "dev")
    with pytest.raises(DataError, match=r"forbids downloading it.*midalign data add flores PATH"):
        flores.read("en-de", "test")
    with pytest.raises(DataError, match=r"holds no file of flores; expected files such as eng_Latn\.dev"):
        flores.add(tmp_path)


def test_training_pairs_are_almas() -> None:
    with pytest.raises(TaskError, match="ALMA has no direction 'en-ace'"):
        translation.dataset(source="flores", language="en-ace")["train"]
