"""Pairs from files of one's own, line and file named where they are malformed; pairs of parallel items."""

import pytest

from midalign.data import mini, ntrex, tatoeba
from midalign.data.pairs import read_pairs
from midalign.errors import DataError, TaskError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "sw.tsv, line 1: the file is empty"),
        (b"\n \n", "sw.tsv, line 1: the file is empty"),
        (b"a\tb\nc\n", "sw.tsv, line 2: found 'c', expected foreign TAB English"),
        (b"a\tb\n\nc\td\n", "sw.tsv, line 2: found ''"),
        (b"a\t \n", "line 1"),
        (b"a\tb\tc", "line 1"),
        (b"a\tb\nc\t\xff\n", "sw.tsv, line 2: not UTF-8"),
    ],
)
def test_malformed_pair_files(tmp_path, content, message):
    (tmp_path / "sw.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_pairs(str(tmp_path / "{language}.tsv"), "sw")


def test_a_pair_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"sw\.tsv cannot be read: No such file"):
        read_pairs(str(tmp_path / "{language}.tsv"), "sw")


def test_pair_file(tmp_path):
    lines = "\ufeffjambo\thello\r\njambo\thello\r\nmaji\u2028baridi\tcold water\r\n"
    (tmp_path / "sw.tsv").write_bytes(lines.encode())
    found = read_pairs(str(tmp_path / "{language}.tsv"), "sw")
    assert found == [("jambo", "hello"), ("maji\u2028baridi", "cold water")]


@pytest.mark.parametrize(
    ("source", "language", "error", "message"),
    [
        ("tatoba", "sw", DataError, "No pairs 'tatoba'. Did you mean tatoeba"),
        ("my/pairs.tsv", "sw", DataError, r"with \{language\} in it"),
        ("mini", "en", DataError, "English is the other side"),
        ("mini", "sw", DataError, "no language 'sw'"),
        ("ntrex", "swa", TaskError, "No language 'swa'.*Did you mean sw"),
        ("tatoeba", "zh_tw", DataError, "tatoeba has no pairs of 'zh_tw'. Expected ntrex, massive"),
    ],
)
def test_sources_and_languages_that_are_not_there(source, language, error, message):
    with pytest.raises(error, match=message):
        read_pairs(source, language)


@pytest.mark.parametrize("data", [ntrex, tatoeba])
def test_pairs_of_a_missing_language_name_the_remedy(data):
    with pytest.raises(DataError, match=r"no pairs of 'ace'\. Omit this language.*midalign data languages"):
        data.pairs("ace")


def test_parallel_items_become_pairs_by_id():
    foreign = {item.id: item.utterance for item in mini.items("de", "train")}
    english = {item.id: item.utterance for item in mini.items("en", "train")}
    assert read_pairs("mini", "de") == list(dict.fromkeys((foreign[id], english[id]) for id in foreign))
