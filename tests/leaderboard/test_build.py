"""The board on disk and in the terminal."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_records import share, simulated, write
from typer.testing import CliRunner

from midalign import harness, model_card, record
from midalign.cli.leaderboard import app
from midalign.data.overlap import Overlap, OverlapCheck
from midalign.errors import MidalignError, RecordError
from midalign.leaderboard import plots
from midalign.leaderboard.build import build_board

BASELINE = {"en": 80, "es": 60, "de": 30, "sw": 10, "fr": 40}
ALIGNED = {"en": 78, "es": 60, "de": 40, "sw": 20, "fr": 37}


def shares(scores):
    return {code: share(100, right) for code, right in scores.items()}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "board" / "results"
    before = dict.fromkeys(BASELINE, 0.25)
    write(folder, "base", "base", shares(dict.fromkeys(BASELINE, 5)), retrieval=before, limit=100)
    write(folder, "baseline", "baseline", shares(BASELINE), seed=1, limit=100)
    after = dict.fromkeys(BASELINE, 0.75)
    write(folder, "aligned", "aligned", shares(ALIGNED), seed=1, limit=100, retrieval=after)
    write(folder, "other", "baseline", shares(BASELINE), seed=1, limit=50, base="org/other")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_records_give_the_same_bytes(results, tmp_path):
    build_board(results, tmp_path / "one")
    build_board(results, tmp_path / "two")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert {name for name in one if not name.startswith("page/")} == {
        "README.md",
        "index.html",
        "leaderboard.json",
        "plots/midalign_mini_slot-mini-test-100.png",
        "plots/midalign_mini_slot-other-test-50.png",
    }
    assert one == two
    build_board(results, tmp_path / "one")
    assert files(tmp_path / "one") == one


def test_records_of_another_folder_order_give_the_same_page(results, tmp_path):
    """Seeds and recipes are sorted by what they are, not by what their files are called."""
    build_board(results, tmp_path / "one")
    renamed = tmp_path / "renamed"
    write(renamed, "z-other", "baseline", shares(BASELINE), seed=1, limit=50, base="org/other")
    write(
        renamed,
        "a-aligned",
        "aligned",
        shares(ALIGNED),
        seed=1,
        limit=100,
        retrieval=dict.fromkeys(BASELINE, 0.75),
    )
    write(renamed, "y-baseline", "baseline", shares(BASELINE), seed=1, limit=100)
    base = shares(dict.fromkeys(BASELINE, 5))
    write(renamed, "x-base", "base", base, limit=100, retrieval=dict.fromkeys(BASELINE, 0.25))
    build_board(renamed, tmp_path / "two")

    def page(folder):
        return re.sub("From the records .*", "", (folder / "README.md").read_text())

    assert page(tmp_path / "one") == page(tmp_path / "two")


def test_the_page_says_the_result_in_words(results, tmp_path):
    build_board(results, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert re.search(r"aligned minus baseline, slot F1: aligned languages \(2\): \*\*\+10\.0 \[", page)
    assert "supervised languages (2): −1.0 [" in page
    assert "unseen languages (1): −3.0 [" in page
    assert re.search(r"Gap closed: 20\.0% \[.*\] of the baseline's gap of 50\.0 \[", page)
    assert "sample of 100 of the test split (seed 0)" in page
    assert "| 25 → 75 | – | 100 (sample) | hf float32, cpu |" in page
    assert page.count("\n## ") == 2
    swahili = next(
        line for line in page.splitlines() if line.startswith("| Swahili `sw` | aligned | low | 100 |")
    )
    assert re.search(r"\| 10\.0 ± \d\.\d \| 20\.0 ± \d\.\d \|$", swahili)
    assert "| Swahili `sw` | +10.0 [" in page


def test_sections_with_the_most_evidence_come_first_and_are_linked(tmp_path):
    few, many = ({"en": share(number, number // 2)} for number in (20, 50))
    write(tmp_path / "r", "sample", "baseline", few, base="a (sample)", seed=1, limit=20)
    write(tmp_path / "r", "full", "baseline", many, base="B/full", seed=1)
    for seed in (1, 2):
        write(tmp_path / "r", f"seeds{seed}", "baseline", many, base="seeds", seed=seed)
    build_board(tmp_path / "r", tmp_path)
    page = (tmp_path / "README.md").read_text()
    headings = [
        title for title in re.findall(r"^## (.*)$", page, re.MULTILINE) if "across bases" not in title
    ]
    assert [re.search(r"seeds|full|sample", heading.split(",")[1])[0] for heading in headings] == [
        "seeds",
        "full",
        "sample",
    ]
    links = re.findall(r"^\| \[.*\]\((#[^)]*)\) \|", page, re.MULTILINE)
    assert links[:3] == [
        "#midalign_mini_slot-seeds-full-test-split",
        "#midalign_mini_slot-bfull-full-test-split",
        "#midalign_mini_slot-a-sample-sample-of-20-of-the-test-split-seed-0",
    ]


def test_the_json_has_the_figures_of_the_page(results, tmp_path):
    build_board(results, tmp_path)
    board = json.loads((tmp_path / "leaderboard.json").read_text())
    first, second = board["sections"]
    assert (first["base"]["name"], second["base"]["name"]) == ("mini", "org/other")
    (difference,) = first["differences"]
    assert difference["means"]["slot_f1"]["aligned"]["value"] == 0.1
    assert difference["gap_closed"]["aligned"]["value"] == 0.2
    assert [model["label"] for model in first["models"]] == ["base", "baseline", "aligned"]
    assert first["languages"]["sw"]["role"] == "aligned"
    for section in board["sections"]:
        assert (tmp_path / section["plot"]).read_bytes().startswith(b"\x89PNG")


def test_a_gap_that_is_not_reported_says_why(tmp_path):
    near = {"en": 50, "es": 50, "de": 50, "sw": 50}
    write(tmp_path / "r", "b", "baseline", {code: wobbly(i) for i, code in enumerate(near)}, seed=1)
    write(tmp_path / "r", "a", "aligned", {code: wobbly(i + 9) for i, code in enumerate(near)}, seed=1)
    build_board(tmp_path / "r", tmp_path)
    assert re.search(
        r"Gap closed is not reported: the interval of the baseline's gap, .*, holds 0\.",
        (tmp_path / "README.md").read_text(),
    )


def wobbly(seed):
    rng = np.random.default_rng(seed)
    return simulated(rng, 0.5, rng.random(60))


def test_different_engines_in_a_section_are_marked(tmp_path):
    write(tmp_path / "r", "b", "baseline", shares(BASELINE), seed=1)
    write(tmp_path / "r", "a", "aligned", shares(ALIGNED), seed=1, engine="vllm", dtype="bfloat16")
    build_board(tmp_path / "r", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "vllm bfloat16, cpu ‡" in page
    assert "hf float32, cpu ‡" in page
    assert "evaluated by different engines or dtypes" in page


def test_an_arm_without_baseline_is_named(tmp_path):
    write(tmp_path / "r", "a", "aligned", shares(ALIGNED), seed=1)
    build_board(tmp_path / "r", tmp_path)
    assert (
        "No baseline of the same recipe and training dtype here: aligned."
        in (tmp_path / "README.md").read_text()
    )


def test_outputs_made_elsewhere_have_a_board_too(tmp_path):
    """What `midalign score` writes: one language, no roles, no dtype."""
    nobody = {"supervised": [], "aligned": [], "unseen": ["de"]}
    outside = {"engine": "external", "dtype": "", "device": "", "recipe": None, "roles": nobody}
    write(tmp_path / "r", "api", "external", {"de": share(100, 40)}, base="api", **outside)
    build_board(tmp_path / "r", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| external ◇ |  | 40.0 | 40.0 |\n" in page
    assert "| external ◇ | 40.0 | – | 100 | external |\n" in page
    assert "No baseline" not in page


def test_somebody_elses_readme_is_left_alone(results, tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(MidalignError, match=r"README\.md was not written by midalign.*--output"):
        build_board(results, tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    assert not (tmp_path / "leaderboard.json").exists()


def test_a_bad_record_leaves_the_old_board(results, tmp_path):
    build_board(results, tmp_path / "out")
    before = files(tmp_path / "out")
    (results / "broken.json").write_text("{")
    with pytest.raises(RecordError, match=r"broken\.json"):
        build_board(results, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_the_command_prints_a_table_of_at_most_100_columns(results):
    outcome = CliRunner().invoke(app, ["build", "--results", str(results)])
    assert outcome.exit_code == 0, outcome.output
    lines = outcome.output.rstrip().splitlines()
    (where,) = (line for line in lines if line.startswith("Tables: "))
    assert max(len(line) for line in lines if str(results) not in line and line != where) <= 100
    row = next(line for line in lines if line.startswith(" aligned "))
    assert re.search(r"1\s+69\.0\s+30\.0\s+37\.0\s+39\.0\s+20\.0 \[.*\]\s+25 → 75", row)
    assert "aligned minus baseline, slot F1: aligned languages (2): +10.0 [" in outcome.output
    assert str(results.parent / "README.md") in where
    assert (results.parent / "README.md").is_file()


def test_scores_without_repeated_items_stand_beside_the_others(tmp_path):
    folder = tmp_path / "results"
    repeated = {"en": list(range(10)), "de": [99]}
    write(folder, "base", "base", shares(dict.fromkeys(BASELINE, 5)))  # knows of no repetition
    write(folder, "one", "baseline", shares(BASELINE), seed=1, repeated=repeated)
    write(folder, "two", "baseline", shares({**BASELINE, "en": 70}), seed=2, repeated=repeated)
    build_board(folder, tmp_path / "board")
    page = (tmp_path / "board" / "README.md").read_text()
    rows = page.partition("### Slot F1 without repeated items")[2].partition("From the records")[0]
    assert "| English `en` | supervised | high | 100 | 10 | – | 75.0 → 72.2 |" in rows
    assert "| German `de` | aligned | high | 100 | 1 | – | 30.0 → 30.3 |" in rows
    assert "`fr`" not in rows  # nothing is repeated there
    (section,) = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["sections"]
    assert section["languages"]["en"]["repeated"] == 10
    assert section["languages"]["fr"]["repeated"] == 0
    base, baseline = section["models"]
    assert base["without_repeated"] == {}
    assert baseline["without_repeated"]["en"] == pytest.approx(65 / 90, abs=1e-6)
    assert baseline["overlap"] == []


def test_without_repeated_items_there_is_no_such_table(results, tmp_path):
    build_board(results, tmp_path / "board")
    page = (tmp_path / "board" / "README.md").read_text()
    assert "repeated" not in page
    assert "§" not in page


def test_the_board_says_what_a_record_found_and_could_not_check(tmp_path):
    one = Overlap(
        training="p",
        test="mini",
        split="test",
        language="de",
        texts=300,
        exact=40,
        short=0,
        near=2,
    )
    check = OverlapCheck(found=[one], unchecked=["q (sw) is not available"])
    write(tmp_path / "r", "a", "aligned", {"de": share(10, 4)}, seed=1, overlap=check)
    build_board(tmp_path / "r", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| aligned § ◇ |" in page
    assert "§ aligned was trained on text of a test set: p holds 42 of 300 texts of mini test, de." in page
    assert (
        "The training text of aligned was not compared with the test text: q (sw) is not available." in page
    )
    text = "\n".join(model_card._scores(record.read_record(tmp_path / "r" / "a.json")))
    assert "Overlap with the training text: p holds 42 of 300 texts of mini test, de." in text
    assert "Overlap not checked: q (sw) is not available." in text


def test_an_incomplete_check_keeps_what_training_allowed(tmp_path):
    """The text that training compared is no longer available where the adapter is scored."""
    figures = {"training": "own", "test": "mini", "language": "de", "texts": 300, "exact": 40, "short": 0}
    allowed = [Overlap(**figures, split=split, near=0) for split in ("validation", "test")]
    entry = record.read_record(
        write(tmp_path, "a", "aligned", {"de": share(10, 4)}, seed=1, training_dtype="x")
    )
    manifest = entry.adapter.manifest.model_copy(update={"overlap": allowed})
    entry = entry.model_copy(update={"adapter": entry.adapter.model_copy(update={"manifest": manifest})})
    gone, whole = (OverlapCheck(found=[], unchecked=texts) for texts in (["own is not available"], []))
    for check, expected in ((gone, allowed[1:]), (whole, []), (None, allowed)):
        checked = entry.model_copy(update={"overlap": check})
        assert checked.known_overlaps == expected
        assert "\n".join(model_card._scores(checked)).count("Overlap with the training text") == len(expected)


def test_a_dozen_arms_are_drawn_apart():
    """By colour and shape, of which there are six and seven."""
    models = [SimpleNamespace(label=str(number), arm=f"arm{number}") for number in range(12)]
    part = SimpleNamespace(models=models)
    assert len({plots._style(part, model)[:2] for model in models}) == 12


def test_records_of_another_signature_have_another_table(tmp_path):
    for name, signature, arm in (("a", "tok:13a", "baseline"), ("b", "tok:flores200", "aligned")):
        write(tmp_path / "r", name, arm, {"de": share(10, 4)}, seed=1, signatures={"bleu": signature})
    assert len(build_board(tmp_path / "r", tmp_path)) == 2


def test_records_of_an_earlier_task_version_are_marked_in_one_line(tmp_path):
    version = harness.metadata("midalign_mini_slot_de")["version"]
    write(tmp_path / "r", "old", "baseline", {"de": share(10, 4)}, seed=1, version=version - 1)
    write(tmp_path / "r", "new", "aligned", {"de": share(10, 4)}, seed=1, version=version)
    build_board(tmp_path / "r", tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert page.count(f"**Made before task version {version}**") == 1


def test_the_page_shows_token_limits_and_how_many_outputs_reached_them(tmp_path):
    folder = tmp_path / "records"
    write(folder, "known", "baseline", shares(BASELINE), seed=1, max_gen_toks=96, cut_off=3)
    write(folder, "more", "baseline", shares(BASELINE), seed=2, max_gen_toks=96, cut_off=5)
    write(folder, "unknown", "aligned", shares(ALIGNED), seed=1, max_gen_toks=96)
    build_board(folder, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "- Token limit of an answer: 96\n" in page
    header = next(line for line in page.splitlines() if line.startswith("| model | high"))
    column = header.split(" | ").index("cut off")
    rows = {
        line.split(" | ")[0]: line.split(" | ") for line in page.splitlines() if "| hf float32, cpu |" in line
    }
    # Five languages of 100 items: 5 x 3 and 5 x 5 of 1,000 outputs.
    assert rows["| baseline ◇"][column] == "4.0"
    assert rows["| aligned ◇"][column] == "–"
    (section,) = json.loads((tmp_path / "leaderboard.json").read_text())["sections"]
    assert [model["cut_off"] for model in section["models"]] == [40, None]
    assert section["languages"]["de"]["max_gen_toks"] == 96
