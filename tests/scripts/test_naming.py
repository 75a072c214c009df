"""`scripts/checks/naming.py` on a small package with one of each fault."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "checks"))
import naming

FILES = {
    "__init__.py": "",
    "a.py": '''
from midalign import b

def twice() -> None:
    """Return nothing."""

def _private() -> None:
    """What is said of nothing."""
''',
    "b.py": '''
def twice() -> None:
    """Of two files."""
    from midalign import c

def _private() -> None: ...
''',
    "c.py": '''
from typing import TYPE_CHECKING
import midalign.a
if TYPE_CHECKING:
    from midalign import d

class Thing:
    """A thing."""

    @property
    def name(self) -> str:
        """What it is called."""
''',
    "d.py": "from midalign import a\n\nclass Thing: ...\n" + "\n" * 460,
    "sets/__init__.py": """
from typing import Protocol

class Named(Protocol):
    LICENCE: str

class Set(Named, Protocol):
    def items(self) -> list[str]: ...
""",
    "sets/one.py": "LICENCE = 'MIT'\ndef items() -> list[str]: ...\n",
    "sets/two.py": "LICENCE = 'MIT'\ndef items() -> list[str]: ...\n",
    "sets/unlike.py": "def items() -> list[str]: ...\n",
    "other.py": "def items() -> list[str]: ...\n",
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, naming.Module]:
    for name, text in FILES.items():
        path = tmp_path / "midalign" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    monkeypatch.setattr(naming, "ROOT", tmp_path)
    monkeypatch.setattr(naming, "SOURCES", (tmp_path,))
    return naming.read_modules()


def test_cycles_include_imports_in_functions_but_not_for_type_checkers(
    modules: dict[str, naming.Module],
) -> None:
    assert [line.partition(":")[0] for line in naming.cyclic_modules(modules)] == [
        *("midalign.a", "midalign.b", "midalign.c")
    ]


def test_long_files_are_found(modules: dict[str, naming.Module]) -> None:
    assert naming.long_files(modules) == ["midalign/d.py: 463 lines"]


def test_repeated_names_leave_out_private_functions_and_protocols(modules: dict[str, naming.Module]) -> None:
    assert naming.repeated_names(modules) == [
        "midalign/d.py:3: Thing is in midalign/c.py:7 too",
        "midalign/sets/unlike.py:1: items is in midalign/other.py:1 too",
        "midalign/b.py:2: twice is in midalign/a.py:4 too",
    ]


def test_docstrings_of_functions_begin_with_a_verb(modules: dict[str, naming.Module]) -> None:
    assert naming.docstrings_without_a_verb(modules) == [
        "midalign/a.py:7: _private: What is said of nothing.",
        "midalign/b.py:2: twice: Of two files.",
    ]


def test_docstrings_of_attributes_and_properties_name_a_thing_too(modules: dict[str, naming.Module]) -> None:
    assert naming.docstrings_that_name_no_thing(modules) == [
        "midalign/a.py:8: What is said of nothing.",
        "midalign/b.py:3: Of two files.",
        "midalign/c.py:12: What it is called.",
    ]


def test_a_count_over_its_ceiling_fails(
    modules: dict[str, naming.Module], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = dict(zip(naming.CEILINGS, (3, 1, 3, 2, 3), strict=True))
    monkeypatch.setattr(naming, "CEILINGS", counts)
    naming.main()
    assert "Thing" not in capsys.readouterr().out
    monkeypatch.setattr(naming, "CEILINGS", counts | {"names defined again": 1})
    with pytest.raises(SystemExit, match="More than before: names defined again"):
        naming.main()
    assert "Thing is in midalign/c.py:7 too" in capsys.readouterr().out
