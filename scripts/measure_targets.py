"""Write scripts/target_tokens.tsv: the longest gold target of each translation task, in tokens.

usage: python scripts/measure_targets.py TOKENIZER      a folder or hub id; ours are by google/gemma-3-270m

generate_tasks.py sets each task's `max_gen_toks` from it, so that no gold target would be cut.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from midalign.data import ntrex, wmt23  # noqa: E402

TABLE = ROOT / "scripts" / "target_tokens.tsv"


def main() -> None:
    """Measure and write."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    lines = ["source\tdirection\ttokens\n"]
    for name, module in (("wmt23", wmt23), ("ntrex", ntrex)):
        for direction in module.directions():
            targets = [segment.target for segment in module.read(direction, "test")]
            ids = tokenizer(targets, add_special_tokens=False)["input_ids"]
            lines.append(f"{name}\t{direction}\t{max(map(len, ids))}\n")
    TABLE.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
