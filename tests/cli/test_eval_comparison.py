"""The comparison that ends an evaluation of several models."""

import shutil
from pathlib import Path

from rich.console import Console

from midalign.cli.eval import print_differences
from midalign.leaderboard.build import compare_records
from midalign.leaderboard.result_sentences import describe_results

RESULTS = Path(__file__).parents[2] / "leaderboard" / "results"


def printed(records: list[Path]) -> str:
    """Return what an evaluation that has just written these records prints about them, as one line."""
    console = Console(width=100)
    with console.capture() as shown:
        print_differences(console, records)
    return " ".join(shown.get().split())


def test_the_sentences_of_the_board_end_an_evaluation(tmp_path):
    for path in RESULTS.glob("mini*"):
        shutil.copy(path, tmp_path)
    (section,) = compare_records(tmp_path)
    text = printed([tmp_path / "mini-baseline-seed1.json", tmp_path / "mini-aligned-seed1.json"])
    for sentence in describe_results(section):
        assert " ".join(sentence.replace("**", "").split()) in text
    assert f"midalign leaderboard build --results {tmp_path}" in text


def test_records_of_other_evaluations_are_not_summarised(tmp_path):
    for path in RESULTS.glob("mini*"):
        shutil.copy(path, tmp_path)
    assert "minus" not in printed([tmp_path / "other.json", tmp_path / "another.json"])


def test_an_invalid_neighbour_does_not_fail_a_finished_evaluation(tmp_path):
    (tmp_path / "broken.json").write_text("{}")
    assert printed([tmp_path / "a.json", tmp_path / "b.json"]).startswith("Not compared: ")
