"""What the leaderboard believes of a record, and what it refuses."""

import json
from pathlib import Path

import pytest
from synthetic_records import share, write

from midalign.errors import RecordError
from midalign.leaderboard.load import load


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path, "one", "baseline", {"en": share(10, 7), "de": share(10, 3)}, seed=1)


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_record_is_read_with_its_items(path):
    (run,) = load(path.parent)
    assert run.group == "midalign_mini_slot"
    assert run.languages == ["de", "en"]
    assert run.counts["en"].shape[0] == 10
    assert run.ids["en"] == run.ids["de"]


def test_items_are_put_in_order_of_their_ids(tmp_path):
    table = share(4, 2)
    write(tmp_path, "a", "baseline", {"en": table}, seed=1, doc_ids={"en": [9, 1, 5, 3]})
    (run,) = load(tmp_path)
    assert (run.counts["en"] == table[[1, 3, 2, 0]]).all()


def test_records_of_folders_in_the_folder(path):
    write(path.parent / "more", "one", "aligned", {"en": share(10, 7)}, seed=1)
    write(path.parent / ".partial", "one", "aligned", {"en": share(10, 1)}, seed=2)
    assert [run.file for run in load(path.parent)] == [f"more/{path.name}", path.name]


def test_a_folder_without_records(tmp_path):
    with pytest.raises(RecordError, match=r"No record .* in .*midalign eval"):
        load(tmp_path)
    with pytest.raises(RecordError, match=r"No folder .*absent"):
        load(tmp_path / "absent")


def test_another_schema_version_is_named_with_the_file(path):
    edit(path, lambda content: content.update(schema_version=2))
    with pytest.raises(RecordError, match=r"one\.json.*schema_version"):
        load(path.parent)


def test_what_is_not_json_is_named(path):
    path.write_text(path.read_text()[:-40])
    with pytest.raises(RecordError, match=r"one\.json"):
        load(path.parent)


def test_a_missing_field_is_named(path):
    edit(path, lambda content: content.pop("engine"))
    with pytest.raises(RecordError, match=r"one\.json.*engine"):
        load(path.parent)


def test_altered_items_are_found_by_digest(path):
    items = path.parent / "one.items.jsonl.zst"
    items.write_bytes(items.read_bytes()[:-1] + b"\0")
    with pytest.raises(RecordError, match=r"one\.items\.jsonl\.zst is not the file"):
        load(path.parent)


def test_missing_items_are_named(path):
    (path.parent / "one.items.jsonl.zst").unlink()
    with pytest.raises(RecordError, match=r"one\.items\.jsonl\.zst is missing"):
        load(path.parent)


def test_a_metric_that_does_not_follow_from_the_items(path):
    edit(
        path,
        lambda content: content["tasks"]["midalign_mini_slot_en"]["metrics"]["slot_f1"].update(value=0.9),
    )
    with pytest.raises(
        RecordError, match=r"one\.json: midalign_mini_slot_en says slot_f1 0\.9, its items give 0\.7"
    ):
        load(path.parent)


def test_counts_that_do_not_follow_from_the_items(path):
    edit(path, lambda content: content["tasks"]["midalign_mini_slot_de"]["counts"].update(slot_tp=4))
    with pytest.raises(RecordError, match=r"midalign_mini_slot_de says slot_tp 4, its items give 3"):
        load(path.parent)


def test_a_document_that_is_counted_twice(tmp_path):
    write(tmp_path, "a", "baseline", {"en": share(3, 2)}, seed=1, doc_ids={"en": [1, 2, 2]})
    with pytest.raises(RecordError, match=r"a\.json: midalign_mini_slot_en counts a document twice"):
        load(tmp_path)


def test_a_family_that_this_version_does_not_know(path):
    edit(path, lambda content: content["tasks"]["midalign_mini_slot_en"].update(family="haiku"))
    with pytest.raises(RecordError, match=r"one\.json: task midalign_mini_slot_en is of family 'haiku'"):
        load(path.parent)


def test_repeated_items_are_left_out_of_the_other_score(tmp_path):
    write(
        *(tmp_path, "a", "baseline", {"en": share(4, 2), "de": share(4, 2)}),
        seed=1,
        doc_ids={"en": [9, 1, 5, 3], "de": [0, 1, 2, 3]},
        repeated={"en": [9]},
    )
    (run,) = load(tmp_path)
    # Of 9 and 1, which are right, 1 is left, beside two wrong ones.
    assert run.unrepeated["en"].tolist() == share(3, 1).sum(axis=0).tolist()
    assert run.unrepeated["de"].tolist() == share(4, 2).sum(axis=0).tolist()
    assert run.task("en").without_repeated["slot_f1"] == pytest.approx(1 / 3)
    assert (run.task("de").repeated, run.task("de").without_repeated) == (0, {})


@pytest.mark.parametrize(
    ("key", "value"), [("repeated", 2), ("repeated", 0), ("without_repeated", {"slot_f1": 0.5})]
)
def test_altered_scores_without_repeated_items_are_found(tmp_path, key, value):
    path = write(tmp_path, "a", "baseline", {"en": share(4, 2)}, seed=1, repeated={"en": [0]})
    edit(path, lambda content: content["tasks"]["midalign_mini_slot_en"].update({key: value}))
    with pytest.raises(RecordError, match=r"a\.json: midalign_mini_slot_en says \d repeated items"):
        load(tmp_path)


def test_a_record_that_knows_of_no_repetition_is_read(path):
    def forget(content):
        for task in content["tasks"].values():
            del task["repeated"], task["without_repeated"]

    edit(path, forget)
    (run,) = load(path.parent)
    assert run.unrepeated == {}
