"""The committed files of the mini benchmark: complete, parallel, free of leaks, what the grammar makes."""

import importlib.util
import re
import shutil
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from midalign.languages import languages

ROOT = Path(__file__).parents[2]
MINI = ROOT / "midalign" / "data" / "mini"
SOURCE = ROOT / "scripts" / "mini"
CODES = [code for code, row in languages().items() if row.codes["mini"]]
SIZES = {"train": 1500, "dev": 150, "test": 300}
PAIR = re.compile(r"\[(\w+) : ([^\[\]]+)\]")

Row = tuple[str, str, str]


@cache
def rows(code: str, split: str) -> list[Row]:
    """The lines of one file as (id, intent, annotated)."""
    header, *lines = (MINI / code / f"{split}.tsv").read_bytes().decode().removesuffix("\n").split("\n")
    assert header == "id\tintent\tannotated"
    return [tuple(line.split("\t")) for line in lines]


def plain(annotated: str) -> str:
    return PAIR.sub(r"\2", annotated)


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_mini", ROOT / "scripts" / "build_mini.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_mini"] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def test_the_ten_languages_are_there() -> None:
    assert len(CODES) == 10
    assert sorted(path.name for path in MINI.iterdir() if path.is_dir()) == sorted(CODES)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("split", SIZES)
def test_size_ids_and_syntax(code: str, split: str) -> None:
    table = rows(code, split)
    assert [row[0] for row in table] == [f"{split}-{n:04d}" for n in range(1, SIZES[split] + 1)]
    for _, intent, annotated in table:
        assert re.fullmatch(r"[a-z_]+", intent)
        sentence = plain(annotated)
        assert not re.search(r"[\[\]{};:：；\r\t]|\s\s", sentence), sentence
        assert sentence == sentence.strip()
        for _, value in PAIR.findall(annotated):
            assert value == value.strip(), annotated
        assert re.search(r"[.?!。？！।][»”\"」』]?$", sentence), sentence
        first = re.search(r"\w", sentence)[0]
        assert first == first.upper(), sentence


@pytest.mark.parametrize("code", ["zh", "ja"])
def test_no_spaces_around_values_where_the_script_has_none(code: str) -> None:
    for split in SIZES:
        for _, _, annotated in rows(code, split):
            spaced = [
                value
                for _, value in PAIR.findall(annotated)
                if re.search(r"[^\x00-\x7f] | [^\x00-\x7f]", value)
            ]
            around = re.search(r" \[|\] ", annotated)
            assert not spaced, annotated
            assert not around, annotated


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("split", SIZES)
def test_parallel_with_english(code: str, split: str) -> None:
    """Same ids, intents and slots; the order of the slots is the language's own."""
    for english, other in zip(rows("en", split), rows(code, split), strict=True):
        assert other[:2] == english[:2]
        slots = [Counter(slot for slot, _ in PAIR.findall(row[2])) for row in (english, other)]
        assert slots[0] == slots[1], (english, other)


@pytest.mark.parametrize("code", CODES)
def test_no_sentence_is_in_two_splits(code: str, builder: ModuleType) -> None:
    """Nor is one that differs by its opener only; within a split no whole sentence comes twice."""
    grammar = builder.load(SOURCE / f"{code}.yaml")
    openers = [opener + grammar["joiner"] for opener in grammar["openers"].values()]
    cores: dict[str, set[str]] = {}
    for split in SIZES:
        sentences = [plain(row[2]) for row in rows(code, split)]
        assert len(set(sentences)) == len(sentences)
        cores[split] = set()
        for sentence in sentences:
            opener = next((text for text in openers if sentence.startswith(text)), "")
            cores[split].add(sentence.removeprefix(opener).casefold())
    assert not cores["train"] & cores["test"]
    assert not cores["train"] & cores["dev"]
    assert not cores["dev"] & cores["test"]


def test_no_template_with_its_values_is_in_two_splits(builder: ModuleType) -> None:
    """The plan holds for every language; that the files are made from it is what the rebuild test shows."""
    plan = builder.plan(builder.read_inventory(SOURCE / "inventory.yaml"))
    keys = {split: {(item.template.id, item.values) for item in items} for split, items in plan.items()}
    assert {split: len(items) for split, items in plan.items()} == SIZES
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["dev"]
    assert not keys["dev"] & keys["test"]


def test_breadth() -> None:
    """At least 12 intents and 15 slots in each split; some items without a slot, of many intents."""
    for split in SIZES:
        table = rows("en", split)
        assert len({intent for _, intent, _ in table}) >= 12
        assert len({slot for row in table for slot, _ in PAIR.findall(row[2])}) >= 15
        without = [row for row in table if not PAIR.search(row[2])]
        assert 0.05 < len(without) / len(table) < 0.12
    with_slots = {row[1] for row in rows("en", "train") if PAIR.search(row[2])}
    without = {row[1] for row in rows("en", "train") if not PAIR.search(row[2])}
    assert len(with_slots & without) >= 10, "the intent must not give away whether there is a slot"


def test_one_value_fills_several_slots() -> None:
    """Else a value alone would give its slot away."""
    labels: dict[str, set[str]] = {}
    for _, _, annotated in rows("en", "train"):
        for slot, value in PAIR.findall(annotated):
            labels.setdefault(value, set()).add(slot)
    assert labels["Berlin"] == {"city", "from_city", "to_city"}
    assert labels["milk"] == {"item", "ingredient"}


def test_a_rebuild_gives_the_committed_bytes(builder: ModuleType, tmp_path: Path) -> None:
    assert builder.main(["--output", str(tmp_path)]) == 0
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.tsv")}
    committed = {path.relative_to(MINI): path.read_bytes() for path in MINI.rglob("*.tsv")}
    assert made.keys() == committed.keys()
    assert [str(name) for name in made if made[name] != committed[name]] == []


def test_check_sees_a_changed_missing_or_foreign_file(
    builder: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "mini"
    shutil.copytree(MINI, copy)
    check = ["--check", "--output", str(copy)]
    assert builder.main(check) == 0

    changed = copy / "de" / "test.tsv"
    changed.write_bytes(changed.read_bytes().replace(b"Wecker", b"wecker", 1))
    assert builder.main(check) == 1
    assert "de/test.tsv: differs" in capsys.readouterr().err
    assert b"wecker" in changed.read_bytes(), "--check must not write"
    assert builder.main(["--output", str(copy)]) == 0
    assert changed.read_bytes() == (MINI / "de" / "test.tsv").read_bytes()

    (copy / "fr" / "dev.tsv").unlink()
    assert builder.main(check) == 1
    assert builder.main(["--output", str(copy)]) == 0
    (copy / "xx").mkdir()
    (copy / "xx" / "dev.tsv").write_text("")
    assert builder.main(check) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    berlin: Berlin\n", "", "values: city: berlin is missing"),
        ("    berlin: Berlin\n", "    berlin: Berlin\n    bonn: Bonn\n", "bonn is not in inventory.yaml"),
        ("    berlin: Berlin\n", "    berlin: Paris\n", "'Paris' is also city."),
        ("    berlin: Berlin\n", "    berlin: 'Ber;lin'\n", "forbidden character"),
        ("    berlin: Berlin\n", "    berlin: '[Berlin'\n", "brackets go around the value, once"),
        ('monday: [Monday, "on [Monday]"]', "monday: [Monday]", "1 forms instead of 2 (base, adv)"),
        ("{date:adv} at {time}.", "{date:dative} at {time}.", "pool date has no form 'dative'"),
        ('"Call {contact}."', '"Call {contcat}."', "no slot 'contcat' here"),
        ('"Call {contact}."', '"Call."', "needs each of these once: contact"),
        ('"Call {contact}."', '"Call {contact}"', "no full stop"),
        ('["Tell me a joke."]', "[]", "1 sentences wanted"),
        ("  hello: Hello!\n", "", "openers: hello is missing"),
    ],
)
def test_a_mistake_in_a_language_file_is_named(
    builder: ModuleType, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = (SOURCE / "en.yaml").read_text("utf-8")
    assert old in text
    (tmp_path / "en.yaml").write_text(text, "utf-8")
    (tmp_path / "xx.yaml").write_text(text.replace(old, new), "utf-8")
    inventory = builder.read_inventory(SOURCE / "inventory.yaml")
    with pytest.raises(builder.GrammarError, match=re.escape(message)):
        builder.read_language(tmp_path / "xx.yaml", inventory)
