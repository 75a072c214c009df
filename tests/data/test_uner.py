"""Universal NER: its publisher's own counts, IOB2 read strictly, splits that exist."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from midalign.data import uner
from midalign.errors import DataError, TaskError


def rows(*tags: str, id: str = "s1", text: str | None = None) -> list[str]:
    words = [f"w{number}" for number in range(len(tags))]
    lines = [f"{i}\t{word}\t{tag}\t-\t-" for i, (word, tag) in enumerate(zip(words, tags, strict=True), 1)]
    return [f"# sent_id = {id}", f"# text = {text or ' '.join(words)}", *lines, ""]


@pytest.fixture
def added(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache with the whole set, from the copy beside the checkout."""
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))
    _, missing = uner.add(shared_data / "uner" / "uner.tar.xz")
    assert missing == []


@pytest.mark.data
def test_every_file_holds_what_its_publisher_counted(added: None, shared_data: Path) -> None:
    """The .stats files beside the data; OTH, which we read as outside, is in none of them."""
    seen = set()
    with tarfile.open(shared_data / "uner" / "uner.tar.xz") as tar:
        for member in tar:
            treebank, _, rest = Path(member.name).name.partition("-ud-")
            split = {"train": "train", "dev": "validation", "test": "test"}.get(rest.removesuffix(".stats"))
            if not member.name.endswith(".stats") or split not in uner.splits(treebank):
                continue
            file = tar.extractfile(member)
            assert file is not None
            stats = json.load(file)
            found = uner.sentences(treebank, split)
            assert len(found) == stats["num_sentences"]
            assert sum(len(one.tokens) for one in found) == stats["num_tokens"]
            for type in uner.TYPES:
                count = sum(span[0] == type for one in found for span in one.spans)
                assert count == stats["label_distribution"].get(type, 0), (treebank, split, type)
            seen.add((treebank, split))
    assert len(seen) > 15


@pytest.mark.data
def test_spans_are_seqevals_and_stand_in_the_text(added: None, shared_data: Path) -> None:
    """Every sentence of every split: entities of the raw tags by seqeval, texts by the raw tokens."""
    with tarfile.open(shared_data / "uner" / "uner.tar.xz") as tar:
        raw = {Path(m.name).name: tar.extractfile(m).read().decode() for m in tar if m.name.endswith("iob2")}  # type: ignore[union-attr]
    sentences = 0
    for treebank in uner.treebanks():
        for split in uner.splits(treebank):
            content = raw[f"{treebank}-ud-{uner.SPLITS[split]}.iob2"]
            blocks = [block for block in content.split("\n\n") if block.strip()]
            read = uner.sentences(treebank, split)
            assert len(blocks) == len(read)
            for block, one in zip(blocks, read, strict=True):
                columns = [line.split("\t") for line in block.split("\n") if line and line[0] != "#"]
                tags = ["O" if "OTH" in column[2] else column[2] for column in columns]
                expected = [(type, first, last + 1) for type, first, last in get_entities(tags)]
                assert list(one.spans) == expected, (treebank, one.id)
                assert f"# text = {one.text}" in block
                for (_, value), (_, first, end) in zip(one.entities, one.spans, strict=True):
                    words = "".join(column[1] for column in columns[first:end])
                    if treebank != "qaf_arabizi":  # some of whose tokens overlap
                        assert "".join(value.split()) == "".join(words.split())
                sentences += 1
    assert sentences > 60_000


def test_tags_that_are_read_as_outside() -> None:
    (one,) = uner.parse_iob2(rows("B-O", "B-OTH", "I-OTH", "B-PER", "I-PER", "B-PER", "I-OTH"), "file")
    assert one.entities == [("PER", "w3 w4"), ("PER", "w5")]


def test_texts_are_taken_from_the_text_and_not_from_the_tokens() -> None:
    (chinese,) = uner.parse_iob2(rows("B-LOC", "I-LOC", "O", text="w0w1w2"), "file")
    assert chinese.entities == [("LOC", "w0w1")]
    assert chinese.tokens == ((0, 2), (2, 4), (4, 6))


def test_arabizis_tokens_that_do_not_line_up() -> None:
    lines = rows("O", "B-ORG", "O", "B-LOC", text="elnehd x Nice")
    words = ["el", "elnehd", "l'", "Nice"]
    lines[2:6] = [
        line.replace(f"w{i}", word) for i, (line, word) in enumerate(zip(lines[2:6], words, strict=True))
    ]
    (one,) = uner.parse_iob2(lines, "file")
    assert one.entities == [("ORG", "elnehd"), ("LOC", "Nice")]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (rows("O", "I-PER"), "file, line 4: I-PER after O continues nothing; expected B-PER"),
        (rows("B-LOC", "I-PER"), "file, line 4: I-PER after B-LOC continues nothing"),
        (rows("I-PER"), "file, line 3: I-PER after O continues nothing"),
        (rows("B-PER", "I-OTH", "I-PER"), "file, line 5: I-PER after O continues nothing"),
        (rows("B-MISC"), "file, line 3: found the tag 'B-MISC', expected O or B- or I- with LOC, ORG, PER"),
        (rows("PER"), "file, line 3: found the tag 'PER'"),
        (rows("B"), "file, line 3: found the tag 'B'"),
        (rows("S-PER"), "file, line 3: found the tag 'S-PER'"),
        (["# sent_id = 1", "# text = a", "1\ta"], r"file, line 3: found 2 columns \('1\\ta'\), expected 5"),
        (["# sent_id = 1", "# text = a", "1 a O - -"], "file, line 3: found 1 columns"),
        (["# sent_id = 1", "1\ta\tO\t-\t-"], "file, line 3: the sentence above has no"),
        (["# text = a", "1\ta\tO\t-\t-", ""], "file, line 3: the sentence above has no"),
        ([*rows("O"), "# sent_id = s2", "1\tw0\tO\t-\t-"], "file, line 7: the sentence above has no"),
        ([*rows("O"), *rows("O")], "file, line 8: duplicate sentence id 's1'"),
        (
            rows("B-PER", text="somebody"),
            "file, line 4: an entity of sentence 's1' does not occur in its text",
        ),
    ],
)
def test_what_is_no_iob2(lines: list[str], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        uner.parse_iob2(lines, "file")


def test_an_entity_may_begin_with_i_only_on_lines_that_are_known() -> None:
    lines = rows("O", "I-PER", "I-PER")
    assert uner.parse_iob2(lines, "file", (4,))[0].entities == [("PER", "w1 w2")]
    with pytest.raises(DataError, match="line 4"):
        uner.parse_iob2(lines, "file", (5,))


def test_splits_and_treebanks_that_do_not_exist() -> None:
    assert uner.splits("zh_gsd") == ["train", "validation", "test"]
    assert uner.splits("en_ewt") == ["validation", "test"]
    assert uner.splits("de_pud") == ["test"]
    with pytest.raises(TaskError, match="UNER's de_pud has no split 'train'; it has test"):
        uner.sentences("de_pud", "train")
    with pytest.raises(TaskError, match=r"UNER has no treebank 'en_ewtt'\. Did you mean en_ewt"):
        uner.sentences("en_ewtt", "test")


def midalign(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "midalign", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.data
def test_add_takes_archive_folder_and_file_and_refuses_what_was_altered(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    archive = shared_data / "uner" / "uner.tar.xz"
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "folder", filter="data")
    file = next((tmp_path / "folder").rglob("tl_trg-ud-test.iob2"))
    one = midalign("data", "add", "uner", file)
    assert "added tl_trg-ud-test.iob2" in one.stdout
    assert "still missing" in one.stdout
    assert "34 in all" in midalign("data", "add", "uner", archive).stdout
    assert "still missing" not in midalign("data", "add", "uner", tmp_path / "folder").stdout
    assert "34 of 34 files" in midalign("data", "list").stdout
    for altered in (b"\xef\xbb\xbf" + file.read_bytes(), file.read_bytes().replace(b"\n", b"\r\n")):
        file.write_bytes(altered)
        refused = midalign("data", "add", "uner", file)
        assert refused.returncode != 0
        assert "tl_trg-ud-test.iob2 has" in refused.stderr
        assert "expected 1,123 lines" in refused.stderr
        assert "Traceback" not in refused.stderr
