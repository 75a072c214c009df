"""The committed task files are what their generator writes."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/generate_tasks.py, writing into an empty folder."""
    spec = importlib.util.spec_from_file_location("generate_tasks", ROOT / "scripts" / "generate_tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "generate_tasks", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "tasks")
    return module


def check(generator: ModuleType, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `--check` ends with; nothing where all is well."""
    monkeypatch.setattr(sys, "argv", ["generate_tasks.py", "--check"])
    try:
        generator.main()
    except SystemExit as stop:
        return str(stop)
    return ""


def test_task_files_are_not_stale() -> None:
    script = ROOT / "scripts" / "generate_tasks.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_check_sees_missing_changed_and_left_over_files(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "scripts/generate_tasks.py" in check(generator, monkeypatch)
    assert not generator.FOLDER.exists()
    monkeypatch.setattr(sys, "argv", ["generate_tasks.py"])
    generator.main()
    assert check(generator, monkeypatch) == ""
    readme = generator.FOLDER / "README.md"
    readme.write_text("not generated")
    assert check(generator, monkeypatch) == ""

    one = generator.FOLDER / "slot" / "slot" / "midalign_slot_sw.yaml"
    text = one.read_text("utf-8")
    one.write_text(text.replace("sw", "en"), "utf-8")
    assert "midalign_slot_sw.yaml" in check(generator, monkeypatch)
    one.unlink()
    assert "midalign_slot_sw.yaml" in check(generator, monkeypatch)
    one.write_text(text, "utf-8")
    extra = one.with_name("midalign_slot_xx.yaml")
    extra.write_text(text, "utf-8")
    assert "midalign_slot_xx.yaml" in check(generator, monkeypatch)

    monkeypatch.setattr(sys, "argv", ["generate_tasks.py"])
    generator.main()
    assert not extra.exists()
    assert readme.exists()
    assert check(generator, monkeypatch) == ""


def test_no_group_translates_english_to_english() -> None:
    """British, Indian and American English are tasks, but no part of NTREX's mean."""
    folder = ROOT / "tasks" / "midalign" / "translation" / "mt_ntrex"
    members = (folder / "midalign_mt_ntrex.yaml").read_text("utf-8")
    assert "midalign_mt_ntrex_en-de\n" in members
    assert "midalign_mt_ntrex_en-en_" not in members
    assert (folder / "midalign_mt_ntrex_en-en_gb.yaml").is_file()


LONGER_THAN_1024 = {
    "midalign_mt_ntrex": "en-bn en-bo en-dv en-dz en-el en-ka en-km en-kn en-lo en-ml en-mr en-my en-ne "
    "en-si en-ta en-te en-th en-ug",
    "midalign_mt_wmt23": "cs-uk de-en en-de en-ru en-uk ja-en",
}
"""Directions with an answer of more than 1,024 bytes, which a base of 2,048 tokens has no room for."""


def test_every_gold_answer_fits_whatever_the_tokenizer() -> None:
    """A byte-level tokenizer needs at most one token per byte of the answer and of the blank before it."""
    table = (ROOT / "scripts" / "target_bytes.tsv").read_text("utf-8")
    rows = [line.split("\t") for line in table.splitlines()[1:]]
    limits = {
        path.stem: re.search(r"max_gen_toks: (\d+)", path.read_text("utf-8"))
        for path in (ROOT / "tasks" / "midalign").rglob("*midalign_*")
    }
    longer: dict[str, list[str]] = {}
    for group, task, size in rows:
        limit = limits[f"{group}_{task}"] or limits[f"_{group}"]
        assert limit is not None
        if int(limit[1]) < int(size) + 1:
            assert int(limit[1]) == 1024
            longer.setdefault(group, []).append(task)
    assert {group: " ".join(sorted(tasks)) for group, tasks in longer.items()} == LONGER_THAN_1024


def test_one_group_is_measured_and_the_others_keep_their_lengths(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ROOT / "scripts" / "measure_targets.py"
    spec = importlib.util.spec_from_file_location("measure_targets", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = generator.TABLE.read_text("utf-8")
    assert "\nmidalign_mini_slot\tde\t" in committed
    table = tmp_path / "target_bytes.tsv"
    table.write_text(re.sub(r"\nmidalign_mini_slot\t.*", "", committed), "utf-8")
    monkeypatch.setattr(generator, "TABLE", table)
    monkeypatch.setattr(module, "TABLE", table)
    group = next(group for group in generator.GROUPS if group.name == "midalign_mini_slot")
    with pytest.raises(SystemExit, match=r"run python scripts/measure_targets\.py midalign_mini_slot"):
        generator.longest_bytes(group, "de")
    monkeypatch.setattr(sys, "argv", ["measure_targets.py", "midalign_mini_slot"])
    module.main()
    assert table.read_text("utf-8") == committed
    monkeypatch.setattr(sys, "argv", ["measure_targets.py", "midalign_slot_xsid"])
    with pytest.raises(SystemExit):
        module.main()
