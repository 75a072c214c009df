"""Write scripts/target_bytes.tsv: the longest gold answer of each task's test split, in UTF-8 bytes.

usage: python scripts/measure_targets.py

generate_tasks.py sets each task's `max_gen_toks` from it: no byte-level tokenizer needs more tokens.
Needs the data sets in midalign's cache (midalign data list). xSID and FLORES-200 are not measured.
"""

from generate_tasks import GROUPS, TABLE, UNMEASURED, Group

from midalign.data import EntityData
from midalign.data.registry import data_set
from midalign.families import family


def targets(group: Group, language: str) -> list[str]:
    """Return the gold answers of a language, direction or treebank."""
    metadata = {"source": group.source, "language": language}
    if isinstance(data := data_set(group.source), EntityData):
        metadata |= {"language": data.treebanks()[language], "treebank": language}
    return list(family(group.family).dataset(**metadata)["test"]["target"])


def longest_target(group: Group, language: str) -> int:
    """Return the UTF-8 bytes of the longest gold answer of a language, direction or treebank."""
    return max(len(target.encode()) for target in targets(group, language))


def main() -> None:
    """Measure the answers of all groups and write the table."""
    lines = ["group\ttask\tbytes\n"]
    for group in GROUPS:
        if group.name not in UNMEASURED:
            lines += [f"{group.name}\t{task}\t{longest_target(group, task)}\n" for task in group.languages()]
    TABLE.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
