"""Build the mini benchmark's files from the grammar in scripts/mini/, the same bytes every time.

    python scripts/build_mini.py                  write midalign/data/mini/<lang>/{train,dev,test}.tsv
    python scripts/build_mini.py --check          write nothing; fail when a committed file differs
    python scripts/build_mini.py --lang fr --sample 30     print 30 sentences of one language to proofread

Only inventory.yaml determines the items, by hashes instead of a random generator. So adding or correcting a
language never changes the items of another, nor does another Python version. The head of inventory.yaml says
how a language file is written.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "scripts" / "mini"
TARGET = ROOT / "midalign" / "data" / "mini"
HEADER = "id\tintent\tannotated\n"

PLACEHOLDER = re.compile(r"\{(\w+)(?:([:!])(\w+))?\}")
FORBIDDEN = re.compile(r"[\[\]{};:：；\t\n]|  |^ | $")
SENTENCE_END = re.compile(r"[.?!…。？！।][»”\"」』]?$")
MARKED = re.compile(r"([^\[\]]*)\[([^\[\]]+)\]([^\[\]]*)")


class GrammarError(Exception):
    """All errors of the grammar, one per line."""


@dataclass(frozen=True)
class Template:
    """A way to ask for something: the intent and the slots, the same in every language."""

    id: str
    slots: tuple[str, ...]
    pools: dict[str, list[str]]
    split: str | None

    @property
    def intent(self) -> str:
        return self.id.split(".")[0]


@dataclass(frozen=True)
class Inventory:
    """The content of inventory.yaml."""

    seed: str
    sizes: dict[str, dict[str, int]]
    opener_every: int
    templates: dict[str, Template]
    openers: list[str]
    pools: dict[str, list[str]]


@dataclass(frozen=True)
class Item:
    """One request before it is worded. `values` are `pool.concept`, in the order of the slots."""

    template: Template
    values: tuple[str, ...]
    opener: str | None = None
    id: str = ""


@dataclass
class Language:
    """The checked content of one language file."""

    code: str
    joiner: str
    openers: dict[str, str]
    templates: dict[str, list[str]]
    values: dict[str, dict[str, str]] = field(default_factory=dict)  # pool.concept -> form -> text
    forms: dict[str, list[str]] = field(default_factory=dict)  # pool -> names of its forms


def label(slot: str) -> str:
    """Return a slot's label: `item_2` is a second value for the label `item`."""
    return re.sub(r"_\d+$", "", slot)


def load(path: Path) -> Any:
    """Load a YAML file with text only: a bare yes, no or 10 stays text."""
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # the faster one needs libyaml
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except yaml.YAMLError as error:
        raise GrammarError(f"{path}: not YAML: {error}") from None


def read_inventory(path: Path) -> Inventory:
    """Read inventory.yaml."""
    raw = load(path)
    templates = {}
    for name, entry in raw["templates"].items():
        slots = tuple(entry["slots"])
        pools = {slot: entry.get("pools", {}).get(slot, raw["slots"][label(slot)]) for slot in slots}
        templates[name] = Template(name, slots, pools, entry.get("split"))
    sizes = {split: {key: int(n) for key, n in entry.items()} for split, entry in raw["sizes"].items()}
    return Inventory(raw["seed"], sizes, int(raw["opener_every"]), templates, raw["openers"], raw["pools"])


def combinations(template: Template, inventory: Inventory) -> Iterator[tuple[str, ...]]:
    """Return all choices of values for a template in which no concept fills two slots."""
    choices = [
        [f"{pool}.{concept}" for pool in template.pools[slot] for concept in inventory.pools[pool]]
        for slot in template.slots
    ]
    return (values for values in product(*choices) if len(set(values)) == len(values))


def quotas(capacity: dict[str, int], total: int) -> dict[str, int]:
    """Divide `total` evenly, with at most half of a template's combinations each."""
    quota = dict.fromkeys(capacity, 0)
    while total:
        open_ones = [name for name in capacity if quota[name] < (capacity[name] + 1) // 2]
        if not open_ones:
            raise GrammarError("inventory.yaml: too few value combinations for this many items")
        for name in open_ones[:total]:
            quota[name] += 1
            total -= 1
    return quota


def plan(inventory: Inventory) -> dict[str, list[Item]]:
    """Choose the items of each split. A template with its values is used once, so it is in one split only."""

    def rank(*parts: object) -> int:
        text = "|".join(map(str, (inventory.seed, *parts)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    slotful = {name: t for name, t in inventory.templates.items() if t.slots}
    every = {name: list(combinations(template, inventory)) for name, template in slotful.items()}
    need = sum(size["items"] - size["slotless"] for size in inventory.sizes.values())
    filled: list[Item] = []
    for name, quota in quotas({name: len(found) for name, found in every.items()}, need).items():
        chosen = sorted(every[name], key=lambda values: rank("values", name, *values))[:quota]
        for values in chosen:
            roll = rank("opener", name, *values)
            with_opener = roll % inventory.opener_every == 0
            opener = inventory.openers[roll // inventory.opener_every % len(inventory.openers)]
            filled.append(Item(slotful[name], values, opener if with_opener else None))
    filled.sort(key=lambda item: rank("split", item.template.id, *item.values))

    splits: dict[str, list[Item]] = {}
    for split, size in inventory.sizes.items():
        bare = [
            Item(template, (), opener)
            for template in inventory.templates.values()
            if template.split == split
            for opener in [None, *inventory.openers]
        ]
        # Sentences without an opener first: else an opener alone would give away that there is no slot.
        bare.sort(key=lambda item: (item.opener is not None, rank("bare", item.template.id, item.opener)))
        if len(bare) < size["slotless"]:
            raise GrammarError(f"inventory.yaml: {split}: only {len(bare)} sentences without a slot")
        take = size["items"] - size["slotless"]
        items, filled = filled[:take] + bare[: size["slotless"]], filled[take:]
        items.sort(key=lambda item: rank("order", item.template.id, item.opener, *item.values))
        splits[split] = [
            Item(item.template, item.values, item.opener, f"{split}-{number:04d}")
            for number, item in enumerate(items, 1)
        ]
    return splits


def pieces(form: str) -> tuple[str, str, str]:
    """Return a form in three parts: the text before its value, the value, and the text after it."""
    if "[" not in form and "]" not in form:
        return "", form, ""
    match = MARKED.fullmatch(form)
    if not match:
        raise ValueError(f"{form!r}: brackets go around the value, once")
    return match[1], match[2], match[3]


def read_values(raw: dict[str, Any], inventory: Inventory, language: Language, errors: list[str]) -> None:
    """Read the value tables of a language file into `language`."""
    for pool, table in raw.items():
        language.forms[pool] = forms = table.pop("_forms", ["base"])
        same_keys(f"values: {pool}", inventory.pools.get(pool, []), table, errors)
        first: dict[str, str] = {}
        for concept, row in table.items():
            where = f"values: {pool}.{concept}"
            cells = [row] * len(forms) if isinstance(row, str) else row
            if len(cells) != len(forms):
                errors.append(f"{where}: {len(cells)} forms instead of {len(forms)} ({', '.join(forms)})")
                continue
            language.values[f"{pool}.{concept}"] = dict(zip(forms, cells, strict=True))
            for cell in cells:
                try:
                    before, value, after = pieces(cell)
                except ValueError as error:
                    errors.append(f"{where}: {error}")
                    continue
                if FORBIDDEN.search(value) or FORBIDDEN.search(f"{before}x{after}"):
                    errors.append(f"{where}: {cell!r} has a forbidden character or a stray space")
            other = first.setdefault(cells[0], concept)
            if other != concept:
                errors.append(f"{where}: {cells[0]!r} is also {pool}.{other}")


def check_sentence(
    text: str, template: Template, language: Language, used: set[tuple[str, str]]
) -> list[str]:
    """Return the errors of one sentence of a template, and add the forms that it uses to `used`."""
    errors, spans = [], []
    for slot, mark, form in PLACEHOLDER.findall(text):
        if slot not in template.slots:
            errors.append(f"no slot {slot!r} here")
            continue
        if mark != "!":
            spans.append(slot)
        for pool in template.pools[slot]:
            forms = language.forms.get(pool, [])
            name = form or next(iter(forms), "")
            used.add((pool, name))
            if name not in forms:
                errors.append(f"pool {pool} has no form {name!r}, only {', '.join(forms)}")
            elif mark == "!":
                cells = [row[name] for key, row in language.values.items() if key.startswith(f"{pool}.")]
                errors.extend(f"unmarked {slot}: {cell!r} has brackets" for cell in cells if "[" in cell)
    if sorted(spans) != sorted(template.slots):
        errors.append(f"needs each of these once: {', '.join(template.slots) or 'no slot'}")
    if FORBIDDEN.search(PLACEHOLDER.sub("x", text)) or not SENTENCE_END.search(text):
        errors.append("a forbidden character, a stray space, or no full stop")
    return errors


def same_keys(what: str, wanted: Collection[str], found: Collection[str], errors: list[str]) -> None:
    """Add an error for each missing and each unknown key of one part of a language file."""
    errors.extend(f"{what}: {key} is missing" for key in wanted if key not in found)
    errors.extend(f"{what}: {key} is not in inventory.yaml" for key in found if key not in wanted)


def read_language(path: Path, inventory: Inventory) -> Language:
    """Read one language file. Raises GrammarError with all errors at once."""
    raw = load(path)
    reference = load(path.with_name("en.yaml"))["templates"]
    errors: list[str] = []
    language = Language(path.stem, raw.get("joiner", " "), raw["openers"], raw["templates"])
    same_keys("openers", inventory.openers, language.openers, errors)
    same_keys("templates", inventory.templates.keys(), language.templates, errors)
    same_keys("values", inventory.pools.keys(), raw["values"], errors)
    read_values(raw["values"], inventory, language, errors)
    used = {(pool, forms[0]) for pool, forms in language.forms.items()}
    for name, template in inventory.templates.items():
        texts = language.templates.get(name, [])
        if not isinstance(texts, list) or len(texts) != len(reference[name]):
            errors.append(f"templates: {name}: {len(reference[name])} sentences wanted, as in en.yaml")
            continue
        for text in texts:
            found = check_sentence(text, template, language, used)
            errors.extend(f"templates: {name}: {text!r}: {error}" for error in found)
    errors.extend(
        f"values: {pool}: no template uses the form {form!r}"
        for pool, forms in language.forms.items()
        for form in forms
        if (pool, form) not in used
    )
    errors.extend(
        f"openers: {key}: {text!r} is not a whole sentence"
        for key, text in language.openers.items()
        if FORBIDDEN.search(text) or not SENTENCE_END.search(text)
    )
    if not unicodedata.is_normalized("NFC", path.read_text(encoding="utf-8")):
        errors.append("the file is not in Unicode normal form C")
    if errors:
        raise GrammarError("\n".join(f"{path}: {error}" for error in errors))
    return language


def capitalised(parts: list[tuple[str, str | None]], code: str) -> list[tuple[str, str | None]]:
    """Return the sentence with its first letter, inside or outside a value, as a capital."""
    for at, (text, slot) in enumerate(parts):
        match = re.search(r"[^\W_]", text)
        if match:
            letter = match[0]
            big = "İ" if code == "tr" and letter == "i" else letter.upper()
            parts[at] = (text[: match.start()] + big + text[match.end() :], slot)
            break
    return parts


def render(item: Item, language: Language, seed: str) -> str:
    """Return the sentence of an item with its values annotated as `[slot : value]`."""
    texts = language.templates[item.template.id]
    # The same for every language, so that items are translations of each other.
    digest = hashlib.sha256("|".join((seed, "text", item.template.id, *item.values)).encode()).digest()
    text = texts[digest[0] % len(texts)]
    values = dict(zip(item.template.slots, item.values, strict=True))
    parts: list[tuple[str, str | None]] = []
    position = 0
    for match in PLACEHOLDER.finditer(text):
        slot, mark, form = match.groups()
        pool = values[slot].split(".")[0]
        cell = language.values[values[slot]][form or language.forms[pool][0]]
        before, value, after = pieces(cell) if mark != "!" else (cell, "", "")
        parts += [(text[position : match.start()] + before, None), (value, label(slot)), (after, None)]
        position = match.end()
    parts = capitalised([*parts, (text[position:], None)], language.code)
    sentence = "".join(f"[{slot} : {text}]" if slot and text else text for text, slot in parts)
    return language.openers[item.opener] + language.joiner + sentence if item.opener else sentence


def plain(annotated: str) -> str:
    """Return the sentence without its annotation."""
    return re.sub(r"\[\w+ : ([^\]]+)\]", r"\1", annotated)


def build(language: Language, splits: dict[str, list[Item]], seed: str) -> dict[str, str]:
    """Return the text of each split's file."""
    files: dict[str, str] = {}
    seen: dict[str, str] = {}
    errors: list[str] = []
    for split, items in splits.items():
        lines = []
        for item in items:
            annotated = render(item, language, seed)
            sentence = plain(annotated)
            if "  " in sentence or sentence != sentence.strip():
                errors.append(f"{item.template.id}: stray space: {sentence!r}")
            if sentence in seen:
                errors.append(f"{item.id} {item.template.id} and {seen[sentence]} read the same: {sentence}")
            seen[sentence] = f"{item.id} {item.template.id}"
            lines.append(f"{item.id}\t{item.template.intent}\t{annotated}\n")
        files[f"{split}.tsv"] = HEADER + "".join(lines)
    if errors:
        raise GrammarError("\n".join(f"{language.code}: {error}" for error in errors))
    return files


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description="Build the mini benchmark from scripts/mini/.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when a file differs")
    parser.add_argument("--lang", action="append", help="only this language (may be repeated)")
    parser.add_argument("--sample", type=int, metavar="N", help="print N sentences instead of writing")
    parser.add_argument("--output", type=Path, default=TARGET, help="folder of the files")
    args = parser.parse_args(argv)
    stale: list[str] = []
    expected: set[Path] = set()
    try:
        inventory = read_inventory(SOURCE / "inventory.yaml")
        splits = plan(inventory)
        codes = args.lang or sorted(path.stem for path in SOURCE.glob("??.yaml"))
        for code in codes:
            path = SOURCE / f"{code}.yaml"
            if not path.is_file():
                raise GrammarError(f"{path}: no such file")
            files = build(read_language(path, inventory), splits, inventory.seed)
            if args.sample:
                lines = [line for line in "".join(files.values()).splitlines() if line != HEADER.strip()]
                lines.sort(key=lambda line: hashlib.sha256(line.split("\t")[0].encode()).digest())
                print("\n".join(lines[: args.sample]))
                continue
            for name, text in files.items():
                file = args.output / code / name
                expected.add(file)
                same = file.is_file() and file.read_bytes() == text.encode()
                if args.check and not same:
                    stale.append(str(file))
                elif not same:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(text.encode())
    except GrammarError as error:
        print(error, file=sys.stderr)
        return 2
    if args.check and not args.lang:
        stale += [str(file) for file in sorted(args.output.glob("*/*.tsv")) if file not in expected]
    for name in stale:
        print(f"{name}: differs from what scripts/build_mini.py makes; run it", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
