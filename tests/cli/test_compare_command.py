"""`midalign compare` from records to words, tables and JSON."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import midalign
from midalign.cli.app import app
from midalign.errors import RecordError
from midalign.leaderboard.formatting import round_figures
from midalign.leaderboard.load import load_runs
from midalign.metrics.paired_tests import sacrebleu_bootstrap, sacrebleu_randomization
from midalign.metrics.slot import HEADLINE
from midalign.metrics.translation import METRICS

PUBLISHED = Path(__file__).parents[2] / "leaderboard" / "results"
ARMS = ["aligned", "baseline", "--results", str(PUBLISHED)]
MINI = PUBLISHED / "mini-aligned-seed1.json"
MINI_BASELINE = PUBLISHED / "mini-baseline-seed1.json"


def run(*words, code=0):
    done = CliRunner().invoke(app, ["compare", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def compared(*words):
    (comparison,) = json.loads(run(*words, "--format", "json"))
    return comparison


def rows(comparison):
    return {row["name"]: row for row in comparison["rows"]}


def test_identical_records_do_not_differ():
    comparison = compared(MINI, MINI)
    for row in comparison["rows"]:
        difference = row["difference"]
        assert (difference["value"], difference["low"], difference["high"]) == (0, 0, 0)
        assert row["p"] == row["p_holm"] == row["p_randomization"] == 1
        assert row["effect_size"] is None
    assert comparison["verdict"][0].startswith("No difference is shown on the mean of 10 languages")
    assert "0 of 10 up, 0 down" in comparison["verdict"][1]


def test_swapping_the_sides_negates():
    there, back = (rows(compared(*sides)) for sides in ((MINI, MINI_BASELINE), (MINI_BASELINE, MINI)))
    for name, row in there.items():
        other = back[name]
        assert (row["first"], row["second"]) == (other["second"], other["first"])
        assert row["effect_size"] == pytest.approx(-other["effect_size"])
        assert row["difference"]["value"] == pytest.approx(-other["difference"]["value"])
        assert row["difference"]["low"] == pytest.approx(-other["difference"]["high"])
        assert [row[p] for p in ("p", "p_holm", "p_randomization")] == [
            other[p] for p in ("p", "p_holm", "p_randomization")
        ]


@pytest.fixture(scope="module")
def mini_arms(tmp_path_factory):
    """The published records of the bundled base alone, in one folder and in one per arm."""
    folder = tmp_path_factory.mktemp("mini")
    files = [*PUBLISHED.glob("mini.*"), *PUBLISHED.glob("mini-[ab]*")]
    for file in files:
        shutil.copy(file, folder)
        for arm in ("aligned", "baseline"):
            if arm in file.name:
                (folder / "arms" / arm).mkdir(parents=True, exist_ok=True)
                shutil.copy(file, folder / "arms" / arm)
    return folder


@pytest.fixture(scope="module")
def by_rows(mini_arms):
    """The comparison of both arms by language, role and class."""
    return {
        by: compared("aligned", "baseline", "--results", mini_arms, "--by", by)
        for by in ("language", "role", "class")
    }


def test_arms_compare_as_on_the_board(mini_arms, by_rows):
    (section,) = midalign.compare_records(mini_arms, written=["mini.json"])
    (board,) = section.differences
    comparison = by_rows["language"]
    assert comparison["seeds"] == [1, 2, 3]
    assert len(comparison["records"][0]) == 3
    by_name = rows(comparison)
    for code, metrics in board.languages.items():
        shown = by_name[code]["difference"]
        assert [shown[key] for key in ("value", "low", "high", "stderr")] == round_figures(
            [getattr(metrics[HEADLINE], key) for key in ("value", "low", "high", "stderr")]
        )
        assert by_name[code]["p_holm"] == round_figures(board.holm[code])
        assert by_name[code]["detectable"] == round_figures(metrics[HEADLINE].detectable)
    by_role = rows(by_rows["role"])
    for role in ("supervised", "aligned", "unseen"):
        assert by_role[role]["difference"]["low"] == round_figures(board.means[HEADLINE][role].low)
    by_class = rows(by_rows["class"])
    assert {name: len(row["languages"]) for name, row in by_class.items()} == {"high": 9, "mid": 1, "all": 10}


def test_the_mean_of_one_language_is_its_row(by_rows):
    by_class = rows(by_rows["class"])
    (code,) = by_class["mid"]["languages"]
    row = rows(by_rows["language"])[code]
    for key in ("documents", "first", "second", "difference", "p", "p_randomization", "effect_size"):
        assert row[key] == by_class["mid"][key]


def test_folders_of_seeds_compare_as_arms(mini_arms, by_rows):
    folders = [mini_arms / "arms" / arm for arm in ("aligned", "baseline")]
    assert compared(*folders, "--by", "role")["rows"] == by_rows["role"]["rows"]
    (comparison,) = midalign.compare_arms(*folders, by="role")
    assert round_figures([row.p for row in comparison.rows]) == [row["p"] for row in by_rows["role"]["rows"]]


def test_verdicts_in_plain_words():
    output = run("mini-aligned-seed1.json", MINI_BASELINE, code=1)
    assert output == ""
    output = " ".join(run(MINI, MINI_BASELINE).split())
    assert (
        "mini-aligned-seed1 is worse than mini-baseline-seed1 on the mean of 10 languages: −2.3 [" in output
    )
    assert "Languages after Holm's correction: 0 of 10 up, 2 down (ru, ja)." in output
    assert "One pair of runs: intervals and p do not cover the choice of the training seed." in output
    output = " ".join(run(PUBLISHED / "mini-aligned-seed2.json", MINI_BASELINE, "--by", "role").split())
    assert "The two share no seed: all runs of both count (1 and 1)." in output


def test_sides_that_differ_in_other_conditions_are_named(tmp_path, mini_arms):
    for suffix in (".json", ".items.jsonl.zst"):
        shutil.copy(mini_arms / f"mini-baseline-seed1{suffix}", tmp_path)
    record = tmp_path / "mini-baseline-seed1.json"
    entry = json.loads(record.read_text())
    entry["engine"]["dtype"] = "bfloat16"
    record.write_text(json.dumps(entry))
    comparison = compared(MINI, record, "--by", "role")
    assert comparison["other_conditions"] == ["dtype"]
    assert "The two also differ in dtype, which alone may cause a difference." in comparison["verdict"]


def test_markdown_and_latex(mini_arms):
    words = ["aligned", "baseline", "--results", mini_arms, "--by", "role", "--format"]
    markdown = run(*words, "markdown")
    assert "| role | n | A | B | A − B | SDD | p | p Holm | p swaps | d_z |" in markdown
    assert "| unseen (3) | 300 | 44.2 | 46.4 |" in markdown
    latex = run(*words, "latex")
    rules = [latex.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption")]
    assert rules == sorted(rules)
    assert latex.count(" & ") == 9 * 5  # header, three roles, mean
    assert "dagger" not in latex.partition(r"\caption")[0]  # the mean is below 0.05, and not corrected
    assert r"midalign\_mini\_slot" in latex
    assert "−" not in latex


def test_foreign_text_does_not_control_the_terminal(tmp_path, mini_arms):
    for arm in ("aligned", "baseline"):
        shutil.copytree(mini_arms / "arms" / arm, tmp_path / f"{arm}\x1b[31m")
    output = run(*(tmp_path / f"{arm}\x1b[31m" for arm in ("aligned", "baseline")), "--by", "role")
    assert "A: aligned\ufffd[31m, B: baseline\ufffd[31m." in " ".join(output.split())
    assert "\x1b" not in output


def test_groups_without_the_metric_are_skipped(tmp_path, mini_arms):
    """Both arms have slot filling and translation: BLEU is a metric of one of them."""
    for file in [*mini_arms.glob("mini-*-seed1.*"), *(PUBLISHED / "alma-gemma").glob("alma-gemma-*-seed1.*")]:
        shutil.copy(file, tmp_path)
    arms = ["aligned", "baseline", "--results", tmp_path]
    assert compared(*arms, "--metric", "bleu", "--sacrebleu")["group"].startswith("midalign_mt")
    assert compared(*arms, "--metric", "slot_f1")["group"] == "midalign_mini_slot"
    (comparison,) = midalign.compare_arms("aligned", "baseline", results=tmp_path, sacrebleu=True)
    assert comparison.section.family == "translation"
    with pytest.raises(RecordError, match="no metric 'blue'"):
        midalign.compare_arms("aligned", "baseline", results=tmp_path, metric="blue")


def test_sacrebleus_tests_of_translation():
    """The p-values follow from the records' counts as sacreBLEU's do (tests/metrics/test_paired_tests.py)."""
    folder = PUBLISHED / "alma-gemma"
    files = [folder / f"alma-gemma-{arm}-seed1.json" for arm in ("aligned", "baseline")]
    counts = {run.file: run.counts for run in load_runs(folder)}
    row = rows(compared(*files, "--metric", "bleu", "--sacrebleu"))["en-de"]
    aligned, baseline = (counts[file.name]["en-de"].astype(np.int64) for file in files)
    (tests,) = row["sacrebleu"]
    assert tests["bootstrap"] == round_figures(sacrebleu_bootstrap(baseline, aligned, METRICS["bleu"]))
    assert tests["randomization"] == round_figures(
        sacrebleu_randomization(baseline, aligned, METRICS["bleu"])
    )
    # Without ties, approximate randomization is the same test.
    assert row["p_randomization"] == pytest.approx(tests["randomization"], abs=1e-3)
    difference = METRICS["bleu"](aligned.sum(0)) - METRICS["bleu"](baseline.sum(0))
    assert row["difference"]["value"] == round_figures(float(difference) / 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("alined", "baseline"), "Did you mean aligned"),
        ((PUBLISHED, "baseline"), "has records of 3 arms: aligned, base, baseline. Name two of them"),
        ((MINI, MINI_BASELINE, "--metric", "slot_f"), "Did you mean slot_f1"),
        ((MINI, MINI_BASELINE, "--sacrebleu"), "sacreBLEU's tests are for translation"),
        ((MINI, PUBLISHED / "alma-gemma"), "arms"),
        (
            (MINI, PUBLISHED / "alma-gemma" / "alma-gemma-aligned-seed1.json"),
            "have no items in common.*midalign_mini_slot, test split",
        ),
    ],
)
def test_errors_say_what_to_type(words, message):
    with pytest.raises(RecordError, match=message):
        midalign.compare_arms(
            *words[:2],
            results=PUBLISHED,
            metric=words[3] if "--metric" in words else None,
            sacrebleu="--sacrebleu" in words,
        )


def test_an_arm_of_several_recipes_is_that_of_the_other_sides_recipe():
    files = [name for side in compared("switched", "baseline")["records"] for name in side]
    assert len(files) == 6
    assert all("mini-switched" in name for name in files)
    with pytest.raises(RecordError, match=r"baseline stands for 2 arms .*Name one of: baseline \(mini\)"):
        midalign.compare_arms(PUBLISHED / "mini.json", "baseline", results=PUBLISHED)


def test_an_arm_may_have_several_recipes_on_tasks_that_the_other_side_lacks():
    (comparison,) = midalign.compare_arms("aligned-massive", "baseline", results=PUBLISHED)
    assert comparison.section.group == "midalign_slot"
