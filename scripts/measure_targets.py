"""Write scripts/target_tokens.tsv: the longest gold target of each translation and JSON task, in tokens.

usage: python scripts/measure_targets.py TOKENIZER      a folder or hub id; ours are by google/gemma-3-270m

generate_tasks.py sets each task's `max_gen_toks` from it, so that no gold target would be cut.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from midalign.data import massive, ntrex, uner, wmt23  # noqa: E402
from midalign.languages import languages  # noqa: E402
from midalign.metrics.structured import call, entities  # noqa: E402

TABLE = ROOT / "scripts" / "target_tokens.tsv"


def targets() -> Iterator[tuple[str, str, list[str]]]:
    """(source, direction, language or treebank, gold targets of its test split)"""
    for name, module in (("wmt23", wmt23), ("ntrex", ntrex)):
        for direction in module.directions():
            yield name, direction, [segment.target for segment in module.read(direction, "test")]
    for code, row in languages().items():
        if row.massive:
            yield "massive", code, [call(item.intent, item.slots) for item in massive.items(code, "test")]
    for name in uner.treebanks():
        yield "uner", name, [entities(one.entities) for one in uner.sentences(name, "test")]


def main() -> None:
    """Measure and write."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    lines = ["source\ttask\ttokens\n"]
    for source, task, texts in targets():
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        lines.append(f"{source}\t{task}\t{max(map(len, ids))}\n")
    TABLE.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
