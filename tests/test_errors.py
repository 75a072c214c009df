"""Errors for unknown names list the names that exist."""

import pytest

from midalign import harness
from midalign.data import flores, massive, mini, uner, wmt23, xsid
from midalign.errors import MidalignError, unknown_name
from midalign.harness import task_names
from midalign.tasks import tasks_dir


def in_task_files(prefix: str) -> set[str]:
    """Return the languages of a group's task files, for UNER its treebanks."""
    names = [path.stem for path in tasks_dir().rglob(f"{prefix}_*.yaml")]
    if "uner" in prefix:
        return {name.removeprefix(f"{prefix}_") for name in names}
    return {harness.metadata(name)["language"] for name in names}


@pytest.mark.parametrize(
    ("call", "group"),
    [
        (lambda: massive.items("xx", "test"), "midalign_slot_bare"),
        (lambda: mini.items("xx", "test"), "midalign_mini_slot"),
        (lambda: xsid.items("xx", "test"), "midalign_slot_xsid"),
        (lambda: wmt23.read("en-xx", "test"), "midalign_mt_wmt23"),
        (lambda: uner.sentences("xx_x", "test"), "midalign_json_uner"),
        (lambda: task_names("midalign_slot", ["xx"]), "midalign_slot_bare"),
    ],
    ids=["massive", "mini", "xsid", "wmt23", "uner", "group"],
)
def test_unknown_names_list_all_there_are(call, group: str) -> None:
    expected = in_task_files(group)
    assert len(expected) > 9
    with pytest.raises(MidalignError, match=r"has no .* 'xx|has no direction 'en-xx") as error:
        call()
    assert set(str(error.value).partition("Available: ")[2].split(", ")) == expected


def test_long_lists_are_counted() -> None:
    with pytest.raises(MidalignError) as error:
        flores.read("en-xx", "test")
    assert len(str(error.value)) < 300
    assert f"Available: {len(flores.directions())}. " in str(error.value)
    assert str(error.value).endswith("midalign data languages")


def test_unknown_language_of_an_own_file_lists_its_languages(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))
    row = '{"language": "%s", "utterance": "um neun", "slots": [{"slot": "time", "value": "neun"}]}\n'
    (tmp_path / "my.jsonl").write_text(row % "de" + row % "sw", "utf-8")
    group = harness.group_name(f"slot:{tmp_path / 'my.jsonl'}")
    with pytest.raises(MidalignError, match=r"has no language 'swa'\. Did you mean sw\? Available: de, sw$"):
        harness.metadata(f"{group}_swa")


def test_message_without_a_close_name() -> None:
    assert unknown_name("xSID", "language", "qq", ["de", "nl"]) == (
        "xSID has no language 'qq'. Available: de, nl"
    )
