"""Tables on narrow terminals: every figure is printed whole."""

import functools
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from midalign.cli import analyze, sweep
from midalign.cli import data as data_command
from midalign.cli.leaderboard import board_table
from midalign.cli.table_printing import print_table
from midalign.languages import languages
from midalign.leaderboard.build import build_board, compare_records
from midalign.leaderboard.statistics import Estimate

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboard"))
from synthetic_records import share, write

WIDTHS = range(36, 131)
CODES = ("en", "es", "de", "sw", "fr")


def printed(table, width):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False)
    print_table(console, table)
    return console.file.getvalue()


def assert_nothing_is_cut(table, width):
    """Each figure stands whole and in its place; text may be folded over several lines."""
    text = printed(table, width)
    assert "…" not in text
    figures = [column.cells for column in table.columns if column.justify == "right"]
    rest = text
    for row in zip(*figures, strict=True):
        for figure in filter(None, row):
            found = re.search(rf"(?<![\w.,+−-]){re.escape(figure)}(?![\w.,])", rest)
            assert found, (figure, text)
            rest = rest[found.end() :]


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A section with every column: several engines, retrieval before and after, a closed gap."""
    folder = tmp_path_factory.mktemp("records")

    def shares(right):
        return {code: share(100, right - 7 * i) for i, code in enumerate(CODES)}

    before, after = dict.fromkeys(CODES, 0.23), dict.fromkeys(CODES, 0.88)
    write(folder, "base", "base", shares(30), retrieval=before)
    for seed in (1, 2):
        write(folder, f"b{seed}", "baseline", shares(90), seed=seed, retrieval=before, base_retrieval=before)
        write(folder, f"a{seed}", "aligned", shares(95), seed=seed, retrieval=after, base_retrieval=before)
    write(
        *(folder, "other", "a-long-name-of-an-arm", shares(80)),
        **{"seed": 1, "recipe": "another-long-recipe", "engine": "vllm", "dtype": "bfloat16"},
    )
    (one,) = build_board(folder, folder / "board")
    return one


@pytest.mark.parametrize("width", WIDTHS)
def test_the_board(part, width):
    assert_nothing_is_cut(board_table(part), width)


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 60, 80, 85, 90])
def test_the_published_boards(width):
    for part in published():
        assert_nothing_is_cut(board_table(part), width)


@functools.cache
def published():
    return compare_records(Path(__file__).parents[2] / "leaderboard" / "results")


def test_the_board_fits_forty_columns(part):
    text = printed(board_table(part), 40)
    assert max(map(len, text.splitlines())) <= 40
    assert re.search(r"aligned\n  seeds +2\n(  .*\n)*  retrieval +23 → 88\n", text)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_table_that_fits_is_a_table(part, terminal):
    console = Console(file=io.StringIO(), width=130, highlight=False, force_terminal=terminal)
    print_table(console, board_table(part))
    row = next(line for line in console.file.getvalue().splitlines() if line.startswith(" base "))
    assert row.split()[-3:] == ["23", "hf", "float32"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_sweep(width):
    change = Estimate(-0.123, -0.20, 0.01, 0.05)
    found = [
        SimpleNamespace(
            label=label, seeds=[1, 2], change=dict.fromkeys(("supervised", "aligned", "unseen"), change)
        )
        for label in ("layer=2", "aligned=de+fr+tr+id+hi+ja, layer=0.4+0.7, multiway=True")
    ]
    assert_nothing_is_cut(sweep._table("midalign_mini_slot", found), width)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_layers(width):
    names = ("margin", "csls", "centred", "accuracy", "mexa")
    layers = [
        SimpleNamespace(
            layer=layer,
            all_pairs={name: 0.1 * i + 0.011 * layer for i, name in enumerate(names)},
            with_english={name: 0.1 * i + 0.022 * layer for i, name in enumerate(names)},
        )
        for layer in (2, 10)
    ]
    earlier = SimpleNamespace(model="gemma-3-270m with baseline-seed1", headline={2: np.full((3, 3), 0.02)})
    analysis = SimpleNamespace(layers=layers, best_layer=2, title="tiny, 3 languages", earlier=earlier)
    assert_nothing_is_cut(analyze._by_layer(analysis), width)


@pytest.mark.parametrize("width", [40, 60, 80, 110])
def test_the_languages(width, monkeypatch):
    monkeypatch.setattr("midalign.cli.data.WIDTH", width)
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    data_command._print_languages(list(languages().values()))
    text = out.getvalue()
    assert "…" not in text
    assert all(re.search(rf"^{code}\b", text, re.MULTILINE) for code in languages())
    assert all(row.identifier in text for row in languages().values())
