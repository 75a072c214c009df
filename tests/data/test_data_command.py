"""`midalign data`: one clear screen, also where something is wrong."""

import subprocess
import sys

import pytest

from midalign.data.registry import DOWNLOADED, downloaded_data


@pytest.fixture
def midalign(tmp_path, monkeypatch):
    monkeypatch.setenv("MIDALIGN_CACHE", str(tmp_path / "cache"))

    def run(*words):
        command = [sys.executable, "-m", "midalign", "data", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


def test_an_empty_cache_is_listed_in_80_columns_with_the_remedy(midalign, tmp_path):
    shown = midalign("list").stdout
    table, _, rest = shown.partition("\n\n")
    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    assert str(tmp_path / "cache") in rest
    assert rest.endswith("\n  midalign data add NAME PATH\n")
    assert [line.split()[0] for line in lines] == ["mini", *DOWNLOADED]
    for name, line in zip(DOWNLOADED, lines[1:], strict=True):
        assert line.split()[1:3] == ["0", "of"], name
        assert downloaded_data(name).LICENCE in line


@pytest.mark.data
def test_part_of_a_set_is_added_and_the_rest_named(midalign, shared_data):
    done = midalign("add", "massive", shared_data / "massive/1.1/data/sw-KE.jsonl.xz")
    assert "massive: added sw-KE to" in done.stdout
    assert "still missing: af-ZA, am-ET" in done.stdout
    assert "3 of 156 files" in midalign("list").stdout.splitlines()[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("masive", "."), "No data set 'masive'. Did you mean massive"),
        (("massive", "nowhere"), "No file or folder nowhere"),
    ],
)
def test_what_is_wrong_fits_one_line(midalign, words, message):
    done = midalign("add", *words)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
