"""Mutate committed records, and see that `check` and `leaderboard build` accept or reject each with a reason.

    python scripts/checks/fuzz_records.py                       # 2,000 mutations of seed 0
    python scripts/checks/fuzz_records.py --mutations 50 --seed 7

A mutation changes one record of a pair: a value, its type, a key, a text, or one of its two files. It fails
if

- anything but a MidalignError is raised (a traceback for the user),
- a mutation that must be rejected is accepted, or the other way round,
- `build` rejects what `check` lets pass,
- README.md has markup that midalign did not write.

The pair has two tasks, so that 2,000 boards take minutes. Every PLOTTED-th board is plotted, too.
"""

import argparse
import hashlib
import json
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from markdown_it import MarkdownIt

from midalign.errors import MidalignError
from midalign.leaderboard.build import build_board, compare_records
from midalign.leaderboard.check import check_records
from midalign.leaderboard.tables import MARK, render_page

RESULTS = Path(__file__).parents[2] / "leaderboard" / "results"
PAIRS = (
    ("mini-baseline-seed1", "mini-aligned-seed1"),
    ("uner-gemma/uner-gemma-baseline-seed1", "uner-gemma/uner-gemma-aligned-seed1"),
    ("alma-gemma/alma-gemma-baseline-seed1", "alma-gemma/alma-gemma-aligned-seed1"),
)
TASKS = 2
PLOTTED = 25

TEXTS = (
    *(
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<!--",
        "$x_1$",
        "$",
        "[red]",
        "[/red]",
        "[/]",
    ),
    *("|", "a|b|c", "a\nb", "\n\n# Heading\n\n", "- item", "`", "```", "**b**", "[a](https://evil.example)"),
    *(
        "![](https://evil.example/x.png)",
        "https://evil.example",
        "www.evil.example",
        "\\",
        "\x1b[31m",
        "\u202eabc",
    ),
    *(
        "",
        " ",
        "\x00",
        "../../etc/passwd",
        "a" * 5000,
        "{{7*7}}",
        "%s%n",
        "é\u0301\u4e2d",
        "_a_",
        "~~x~~",
        "&lt;",
    ),
)
NUMBERS = (0, -1, 1, 2, 0.5, 1e308, -1e308, 10**30, 2**31, 2**63, 10**400, 1e-300, -0.0)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"a": 1}, [1, "a"], float("nan"), float("inf"))
FREE_TEXT = (
    *(("base", "name"), ("base", "note"), ("recipe", "name"), ("engine", "device"), ("engine", "name")),
    *(("engine", "dtype"), ("retrieval", "pooling"), ("sample", "split"), ("arm",), ("decoding", "regime")),
)
"""Paths of texts that any value may stand in, as far as the schema goes."""


@dataclass(frozen=True)
class Mutation:
    """A changed pair, and whether it must be rejected. None if either is right."""

    kind: str
    rejected: bool | None


def trimmed(name: str) -> tuple[dict[str, Any], bytes]:
    """Return a committed record and its items, of TASKS tasks."""
    record = json.loads((RESULTS / f"{name}.json").read_text())
    packed = (RESULTS / f"{name}.items.jsonl.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().decompress(packed).splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["task"] in list(record["tasks"])[:TASKS]]
    record["tasks"] = {task: record["tasks"][task] for task in list(record["tasks"])[:TASKS]}
    return record, repacked(record, b"".join(kept))


def repacked(record: dict[str, Any], lines: bytes) -> bytes:
    """Return compressed items, whose digest the record gets."""
    packed = zstandard.ZstdCompressor(level=1).compress(lines)
    record["items"]["sha256"] = hashlib.sha256(packed).hexdigest()
    return packed


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all members."""
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield (*path, key)
        yield from places(member, (*path, key))


def at(record: Any, path: tuple[Any, ...]) -> Any:
    """Return a member by its path."""
    for key in path:
        record = record[key]
    return record


def mutate(record: dict[str, Any], packed: bytes, draw: random.Random) -> tuple[Mutation, bytes, bytes]:
    """Return a mutation, and the bytes of the record's two files."""
    every, task = list(places(record)), record["tasks"][draw.choice(list(record["tasks"]))]
    kind = draw.choice(
        ("text", "text", "value", "value", "value", "missing", "extra", "figure", "file", "items")
    )
    rejected: bool | None = None
    if kind == "text":
        path = draw.choice([path for path in FREE_TEXT if at_least(record, path)])
        at(record, path[:-1])[path[-1]] = draw.choice(TEXTS) + draw.choice(("", draw.choice(TEXTS)))
        rejected = False
    elif kind == "value":
        path = draw.choice(every)
        at(record, path[:-1])[path[-1]] = draw.choice(draw.choice((TEXTS, NUMBERS, OTHERS)))
    elif kind == "missing":
        path = draw.choice([path for path in every if isinstance(path[-1], str)])
        del at(record, path[:-1])[path[-1]]
    elif kind == "extra":
        holder = draw.choice((record, record["base"], record["engine"], task, record["roles"]))
        holder[draw.choice(TEXTS) + "x"], rejected = draw.choice(TEXTS), True
    elif kind == "figure":
        metric = task["metrics"][draw.choice(list(task["metrics"]))]
        metric["value"], rejected = (metric["value"] or 0) + draw.choice((0.01, 5, 1e9, -2)), True
    written = json.dumps(record).encode()
    if kind == "file":
        cut = draw.randrange(len(written) - 1)
        damages: tuple[Callable[[], bytes], ...] = (
            lambda: written[:cut],
            lambda: written[:cut] + b"\xff" + written[cut:],
            lambda: b"[" * 100_000,
            lambda: b"",
            lambda: b"null",
            lambda: b'{"decoding": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        )
        written, rejected = draw.choice(damages)(), True
    elif kind == "items":
        packed, rejected = damaged_items(record, packed, draw), True
        written = json.dumps(record).encode()
    return Mutation(kind, rejected), written, packed


def at_least(record: dict[str, Any], path: tuple[str, ...]) -> bool:
    """Return whether the record has the parent of a path."""
    return all(isinstance(at(record, path[:i]), dict) for i in range(len(path)))


def damaged_items(record: dict[str, Any], packed: bytes, draw: random.Random) -> bytes:
    """Return items that do not fit the record, with a digest that does in most cases."""
    lines = zstandard.ZstdDecompressor().decompress(packed).splitlines(keepends=True)
    content = json.loads(lines[0])
    kind = draw.randrange(8)
    if kind == 0:
        return packed[: draw.randrange(len(packed))]
    if kind == 1:
        return b"PK\x03\x04 not zstd"
    if kind == 2:
        return repacked(record, b"".join(lines[1:]))
    if kind == 3:
        return repacked(record, b"".join(lines) + lines[0])
    column = content["counts"][draw.choice(list(content["counts"]))]
    if kind == 4:
        column[draw.randrange(len(column))] = draw.choice((-1, 10**12, 0.5, None, "1", 2**31))
    elif kind == 5:
        column.pop()
    elif kind == 6:
        column[0] += 1
    else:
        content["doc_ids"][0] = content["doc_ids"][1]
    return repacked(record, b"".join([json.dumps(content).encode() + b"\n", *lines[1:]]))


MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
OURS = {
    "text",
    "text_special",
    "softbreak",
    "code_inline",
    "strong_open",
    "strong_close",
    "image",
    "link_close",
}


def foreign_markup(readme: str) -> list[str]:
    """Return markup in a board that midalign does not write."""
    found, links = [], 0
    for token in MARKDOWN.parse(readme.removeprefix(MARK)):
        if token.type in ("html_block", "fence", "code_block", "hr", "blockquote_open", "ordered_list_open"):
            found.append(token.type)
        for child in token.children or []:
            plot = child.type == "image" and str(child.attrs["src"]).startswith("plots/")
            if child.type == "link_open" and str(child.attrs["href"]).startswith("#"):
                links += 1
            elif child.type not in OURS or (child.type == "image" and not plot):
                found.append(f"{child.type} {child.content[:60]!r}")
    if links != len(re.findall(r"^## ", readme, re.MULTILINE)):  # the contents have one per section
        found.append(f"{links} links to sections")
    if [line for line in readme.splitlines() if line.startswith("# ")] != ["# Leaderboard"]:
        found.append("another heading")
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", readme):
        found.append("control character")
    return found


def fuzz(mutations: int, seed: int) -> tuple[list[str], Counter[str]]:
    """Return the failures, and how often each kind was accepted and rejected."""
    sources = [[trimmed(name) for name in pair] for pair in PAIRS]
    problems, outcomes = [], Counter[str]()
    for number in range(mutations):
        draw = random.Random(f"{seed} {number}")
        pair = json.loads(json.dumps([record for record, _ in draw.choice(sources)]))
        names = [record["name"] for record in pair]
        by_name = {record["name"]: packed for source in sources for record, packed in source}
        mutation, written, packed = mutate(pair[1], by_name[names[1]], draw)
        with tempfile.TemporaryDirectory() as scratch:
            results = Path(scratch) / "results"
            results.mkdir()
            contents = [
                (names[0], json.dumps(pair[0]).encode(), by_name[names[0]]),
                (names[1], written, packed),
            ]
            for name, text, items in contents:
                (results / f"{name}.json").write_bytes(text)
                (results / f"{name}.items.jsonl.zst").write_bytes(items)
            try:
                found, accepted = judge(results, number % PLOTTED == 0)
            except Exception:
                found, accepted = [traceback.format_exc(limit=-3)], None
        outcomes[f"{mutation.kind} {'accepted' if accepted else 'rejected'}"] += 1
        if mutation.rejected is not None and accepted == mutation.rejected:
            found.append(f"{'accepted' if accepted else 'rejected'}, expected otherwise")
        problems += [f"mutation {number} ({mutation.kind}): {text}" for text in found]
    return problems, outcomes


def judge(results: Path, plotted: bool) -> tuple[list[str], bool]:
    """Return what is wrong with the judgement of a pair, and whether a board accepts it."""
    checks = check_records(sorted(results.glob("*.json")), prompts=False)
    failed = any(check.failed for check in checks)
    empty = [f for check in checks for f in check.findings if f.state == "fail" and len(f.text) < 10]
    found = ["a failure without a reason"] if empty else []
    try:
        if plotted:
            build_board(results, results.parent)
            readme = (results.parent / "README.md").read_text()
        else:
            readme = render_page(compare_records(results))
    except MidalignError as error:
        if not failed:
            found.append(f"check passes what build rejects: {error}")
        if len(str(error)) < 20:
            found.append(f"no reason: {error}")
        return found, False
    return [*found, *foreign_markup(readme)], True


def main() -> int:
    """Print outcomes and failures, and return 1 if there are failures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    problems, outcomes = fuzz(given.mutations, given.seed)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:5}  {outcome}")
    for problem in problems:
        print(problem)
    print(f"{given.mutations} mutations of seed {given.seed}: {len(problems)} failures")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
