"""xSID from its publisher's layout: what is read, what is refused, what is kept with a warning."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from midalign import harness
from midalign.data import xsid
from midalign.errors import DataError, TaskError
from midalign.families import slot_spans
from midalign.languages import languages
from midalign.leaderboard.load import load_runs
from midalign.metrics.slot import target
from midalign.metrics.slot_spans import METRICS

GERMAN = """\
# id = 1
# text-en = set an alarm for nine, please
# text = Stell einen Wecker auf neun Uhr, bitte
# intent = alarm/set_alarm
1	Stell	alarm/set_alarm	O
2	einen	alarm/set_alarm	O
3	Wecker	alarm/set_alarm	O
4	auf	alarm/set_alarm	B-datetime
5	neun	alarm/set_alarm	I-datetime
6	Uhr	alarm/set_alarm	I-datetime
7	,	alarm/set_alarm	O
8	bitte	alarm/set_alarm	O

# id = 2
# text = Regnet es in Bonn?
# intent = weather/find
1	Regnet	weather/find	B-weather/attribute
2	es	weather/find	O
3	in	weather/find	O
4	Bonn	weather/find	B-location
5	?	weather/find	O

"""
CHINESE = """\
# id: 1
# text: 明天早上 七点 叫我
# intent: alarm/set_alarm
# slots: 0:7:datetime
1	明天	alarm/set_alarm	B-datetime
2	早上	alarm/set_alarm	I-datetime
3	七点	alarm/set_alarm	I-datetime
4		alarm/set_alarm	O
5	叫我	alarm/set_alarm	O
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def midalign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "midalign", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small copy in xSID's layout."""
    found = tmp_path / "xSID-0.7"
    found.mkdir()
    for name in ("de", "de-muc"):
        (found / f"{name}.valid.conll").write_text(GERMAN, "utf-8")
        (found / f"{name}.test.conll").write_text(GERMAN, "utf-8")
    (found / "zh.test.conll").write_text(CHINESE, "utf-8")
    return found


def test_tasks_are_named_as_xsid_spells_its_languages_and_records_as_we_do() -> None:
    names = harness.expand(["midalign_slot_xsid"])
    spelled = "ar da de de_ba de_muc de_st en gsw id it ja kk lt nap nl no sr tr zh"
    assert " ".join(sorted(name.removeprefix("midalign_slot_xsid_") for name in names)) == spelled
    for name in names:
        row = languages()[harness.metadata(name)["language"]]
        assert name == f"midalign_slot_xsid_{row.codes['xsid'].replace('-', '_')}"


def test_items_have_words_spans_and_the_values_of_the_text(midalign: Run, folder: Path) -> None:
    done = midalign("data", "add", "xsid", folder)
    assert "xsid: added de-muc.test.conll, de-muc.valid.conll, de.test.conll" in done.stdout
    assert "still missing: ar.test.conll, ar.valid.conll" in done.stdout
    assert "de.test.conll has 22 lines" in done.stderr
    assert "The copy is kept. Scores on it are not comparable" in done.stderr
    one, other = xsid.items("de_muc", "validation")
    assert one.utterance == "Stell einen Wecker auf neun Uhr, bitte"
    assert one.slots == (("datetime", "auf neun Uhr"),)
    assert one.spans == (("datetime", 3, 6),)
    assert one.annotated == "Stell einen Wecker [datetime : auf neun Uhr] , bitte"
    assert (other.id, other.intent, len(other.words)) == ("de_muc-2", "weather/find", 5)
    assert other.slots == (("weather/attribute", "Regnet"), ("location", "Bonn"))
    (chinese,) = xsid.items("zh", "test")
    assert chinese.slots == (("datetime", "明天早上 七点"),)
    assert chinese.words == ("明天", "早上", "七点", "", "叫我")
    assert xsid.digest("zh", "test") == hashlib.sha256(CHINESE.encode()).hexdigest()


def test_a_kept_copy_is_scored_under_its_own_digest(midalign: Run, folder: Path, tmp_path: Path) -> None:
    """And the leaderboard knows the task by its group, though its name ends as xSID spells the language."""
    (folder / "no.test.conll").write_text(GERMAN, "utf-8")
    midalign("data", "add", "xsid", folder)
    outputs = tmp_path / "api.jsonl"
    answers = ["datetime: auf neun Uhr", "weather/attribute: regnet; location: Köln"]
    rows = [json.dumps({"doc_id": i, "output": text}) for i, text in enumerate(answers)]
    outputs.write_text("\n".join(rows), "utf-8")
    words = ("score", "--task", "midalign_slot_xsid_no", "--outputs", outputs, "--output", tmp_path / "out")
    done = midalign(*words)
    assert done.returncode == 0, done.stderr
    (run,) = load_runs(tmp_path / "out")
    assert (run.group, run.languages) == ("midalign_slot_xsid", ["nor"])
    result = run.task("nor")
    assert result.family == "slot_spans"
    assert result.data_digest == hashlib.sha256(GERMAN.encode()).hexdigest()
    assert result.metrics["strict_f1"].value == pytest.approx(2 / 3)
    assert list(result.metrics) == list(METRICS)


def test_a_kept_copy_that_changes_later_is_found_out(midalign: Run, folder: Path) -> None:
    midalign("data", "add", "xsid", folder)
    path = xsid.FILES.path("de.test.conll")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        DataError, match=r"has 20 lines, .*; expected 22 lines, .*rm .*midalign data add xsid"
    ):
        xsid.items("de", "test")


def test_byte_order_marks_and_carriage_returns_make_no_difference(midalign: Run, folder: Path) -> None:
    windows = b"\xef\xbb\xbf" + GERMAN.replace("\n", "\r\n").encode()
    (folder / "de.test.conll").write_bytes(windows)
    assert midalign("data", "add", "xsid", folder).returncode == 0
    assert xsid.digest("de", "test") == xsid.digest("de", "validation")
    assert xsid.items("de", "test") == xsid.items("de", "validation")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "I-datetime",
            "I-location",
            r"de.test.conll, line 9: I-location after B-datetime; a slot begins with",
        ),
        ("B-datetime", "O", "line 9: I-datetime after O; a slot begins with B-datetime"),
        ("B-datetime", "B", "line 8: the tag 'B'; expected O, B-<slot> or I-<slot>"),
        ("B-datetime", "B-", "line 8: the tag 'B-'"),
        ("B-datetime", "datetime", "line 8: the tag 'datetime'"),
        (
            "1	Regnet	weather/find	B-weather/attribute",
            "1	Regnet",
            "line 17: 2 columns; expected 4",
        ),
        ("# id = 2", "# id = 1", "line 22: duplicate id 1 of the item above; the item above line 13"),
        ("2	es", "3	es", "line 18: word '3' where word 2 was expected"),
        ("\n# id = 2", "# id = 2", "line 13: a comment among the words"),
    ],
)
def test_what_is_malformed_is_named_with_file_and_line(
    midalign: Run, folder: Path, old: str, new: str, message: str
) -> None:
    (folder / "de.test.conll").write_text(GERMAN.replace(old, new, 1), "utf-8")
    done = midalign("data", "add", "xsid", folder)
    assert done.returncode == 1
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert not xsid.FILES.path("zh.test.conll").exists()  # all or nothing


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GERMAN.replace("bitte", "schön").encode("latin-1"), "de.test.conll: not UTF-8"),
        (GERMAN.encode("utf-16"), "de.test.conll: not UTF-8"),
        (b"", "holds no item"),
        (b"# id = 1\n# text = hallo\n", "line 3: an item without words"),
    ],
)
def test_what_cannot_be_read(midalign: Run, folder: Path, content: bytes, message: str) -> None:
    (folder / "de.test.conll").write_bytes(content)
    with pytest.raises(DataError, match=message):
        xsid.add(folder)


def test_words_decide_where_the_text_does_not_spell_them(midalign: Run, folder: Path) -> None:
    (folder / "de.test.conll").write_text(GERMAN.replace("text = Regnet", "text = Regnets"), "utf-8")
    xsid.add(folder)
    assert xsid.items("de", "test")[1].utterance == "Regnet es in Bonn ?"


def test_a_semicolon_is_no_part_of_a_value(midalign: Run, folder: Path) -> None:
    """Answers separate slots by it."""
    (folder / "de.test.conll").write_text(GERMAN.replace("neun", "neun;"), "utf-8")
    xsid.add(folder)
    one = xsid.items("de", "test")[0]
    assert (one.utterance[-16:], one.slots[0][1]) == ("neun, Uhr, bitte", "auf neun, Uhr")


def test_names_and_training(midalign: Run, folder: Path) -> None:
    xsid.add(folder)
    with pytest.raises(TaskError, match=r"xSID has no language 'de_bar'\. Did you mean de_ba"):
        xsid.items("de_bar", "test")
    with pytest.raises(TaskError, match="No split 'dev'"):
        xsid.items("de", "dev")
    with pytest.raises(TaskError, match=r"no training split of 'de', only one of English"):
        xsid.items("de", "train")
    pinned = r"mainlp/xsid/[0-9a-f]{40}/data/xSID-0\.7/en\.train\.conll"
    with pytest.raises(TaskError, match=rf"not downloaded.*{pinned}.*midalign data add xsid PATH"):
        xsid.items("en", "train")
    (folder / "en.train.conll").write_text(GERMAN, "utf-8")
    xsid.add(folder)
    assert [item.id for item in xsid.items("en", "train")] == ["en-1", "en-2"]
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE .*midalign data add xsid PATH"):
        xsid.items("tr", "test")


def test_a_published_file_wins_over_its_other_versions(
    midalign: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publisher's repository holds five."""
    old, new = folder / "xSID-0.6", folder / "xSID-0.8"
    for other in (old, new):
        shutil.copytree(folder, other, ignore=lambda *_: ["xSID-0.6", "xSID-0.8"])
        (other / "de.test.conll").write_text(GERMAN.replace("Bonn", "Ulm"), "utf-8")
    digest = hashlib.sha256(GERMAN.encode()).hexdigest()
    monkeypatch.setitem(xsid.FILES.digests, "de.test.conll", (22, digest))
    xsid.add(folder)
    assert xsid.items("de", "test")[1].slots[1][1] == "Bonn"
    (new / "de.test.conll").unlink()
    xsid.add(new)
    xsid.add(old)
    assert xsid.items("de", "test")[1].slots[1][1] == "Ulm"
    xsid.add(folder)
    assert xsid.items("de", "test")[1].slots[1][1] == "Bonn"


def test_few_shot_examples_come_from_validation(midalign: Run, folder: Path) -> None:
    xsid.add(folder)
    splits = slot_spans.dataset(source="xsid", language="de", family="slot_spans", version=1)
    assert sorted(splits["shots"]["id"]) == ["de-1", "de-2"]


def test_languages_have_no_id_in_common(midalign: Run, folder: Path) -> None:
    """A position is another sentence in some languages, so equal ids would pair unlike items."""
    xsid.add(folder)
    ids = [{item.id for item in xsid.items(language, "test")} for language in ("de", "de_muc")]
    assert ids[0].isdisjoint(ids[1])


# --- the real one ---


@pytest.fixture
def published(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (shared_data / "xsid").is_dir():
        pytest.skip("no copy of github.com/mainlp/xsid's data/xSID-0.7 in ../shared/data/xsid")
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path))
    _, missing = xsid.add(shared_data / "xsid")
    assert missing == []


@pytest.mark.data
def test_the_release_is_read_whole_and_right_answers_are_right(published: None) -> None:
    items = values = 0
    for code, row in languages().items():
        for split in ("validation", "test") if row.codes["xsid"] else ():
            file = xsid.FILES.path(f"{row.codes['xsid']}.{xsid.SPLITS[split]}.conll").read_text("utf-8")
            found = xsid.items(code, split)
            assert len(found) == file.count("\n\n")
            assert sum(len(item.spans) for item in found) == len(re.findall(r"\tB-\S+$", file, re.MULTILINE))
            items += len(found)
            values += sum(len(item.slots) for item in found)
            docs = [slot_spans.tagged_document(item, "xsid", code) for item in found]
            pooled = [
                sum(column) for column in zip(*(slot_spans.counts(d, d["target"]) for d in docs), strict=True)
            ]
            got = {name: getattr(slot_spans, name)([pooled]) for name in METRICS}
            assert got.pop("values_not_in_utterance") == 0
            assert set(got.values()) == {1.0}, code
    assert (items, values) == (22_800, 44_072)


@pytest.mark.data
def test_text_and_words_differ_in_one_item(published: None) -> None:
    spaced = [
        (code, item.id)
        for code, row in languages().items()
        for item in (xsid.items(code, "test") if row.codes["xsid"] else ())
        if item.utterance.startswith("buach a party") and "glaichn" in item.utterance
    ]
    assert spaced == [("de_muc", "de_muc-500")]
    (title,) = [item for item in xsid.items("nor", "test") if "JLA Adventures, Trapped" in item.utterance]
    assert "; " not in target(title.slots)
