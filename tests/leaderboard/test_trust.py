"""The trust in published records: what the log of verifications and the record itself say."""

import json
import shutil
from pathlib import Path

import pytest

from midalign.errors import RecordError
from midalign.leaderboard.build import build_board
from midalign.leaderboard.check import check_records
from midalign.leaderboard.load import load_runs, runs_of_file
from midalign.leaderboard.trust import LOG
from midalign.leaderboard.verify import Verdict, Verification, log_verification

PUBLISHED = Path(__file__).parents[2] / "leaderboard" / "results"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("mini", "mini-baseline-seed1"):
        for file in PUBLISHED.glob(f"{name}.*"):
            shutil.copy(file, folder)
    return folder


def log(results: Path, name: str, verdict: Verdict) -> None:
    log_verification(Verification(results / f"{name}.json", verdict, "0 of 100 items differ", 100))


def trust(results: Path, name: str) -> str:
    (run,) = runs_of_file(results / f"{name}.json", name)
    return run.trust


def test_only_the_verified_file_itself_is_verified(results: Path) -> None:
    log(results, "mini", "verified")
    assert trust(results, "mini") == "verified"
    assert trust(results, "mini-baseline-seed1") == "checked"
    record = results / "mini.json"
    record.write_text(record.read_text() + "\n")
    assert trust(results, "mini") == "checked"


def test_the_last_verification_counts(results: Path) -> None:
    log(results, "mini", "verified")
    log(results, "mini", "altered")
    assert trust(results, "mini") == "altered"
    log(results, "mini", "verified")
    assert trust(results, "mini") == "verified"


def test_altered_records_are_not_loaded(results: Path) -> None:
    assert load_runs(results)
    log(results, "mini", "altered")
    with pytest.raises(RecordError, match=r"mini\.json is altered, as its verification in"):
        load_runs(results)
    (check,) = check_records([results / "mini.json"], prompts=False)
    assert check.failed
    log(results, "mini", "verified")
    assert load_runs(results)


def test_undocumented_training_is_self_reported(results: Path) -> None:
    file = results / "mini-baseline-seed1.json"
    record = json.loads(file.read_text())
    record["adapter"]["manifest"] = None
    record["trained_on"] = "MASSIVE train, en es"
    file.write_text(json.dumps(record))
    assert trust(results, "mini-baseline-seed1") == "self-reported"


def test_tables_and_page_show_verified_records(results: Path, tmp_path: Path) -> None:
    log(results, "mini", "verified")
    build_board(results, tmp_path)
    readme = (tmp_path / "README.md").read_text()
    assert "| base ✓ |" in readme
    assert "| baseline |" in readme
    assert readme.count("✓ Verified: ") == 1
    index = (tmp_path / "page" / "data" / "index.js").read_text()
    data = json.loads(index[index.index("{") : index.rindex("}") + 1])
    assert {model["arm"]: model["trust"] for model in data["models"]} == {
        "base": "verified",
        "baseline": "checked",
    }


def test_malformed_log_is_named(results: Path) -> None:
    (results / LOG).write_text("no JSON\n")
    with pytest.raises(RecordError, match=rf"{LOG}, line 1 was not written by"):
        trust(results, "mini")
