"""Write scripts/target_bytes.tsv: the longest gold answer of each task's test split, in UTF-8 bytes.

usage: python scripts/measure_targets.py [GROUP ...]

generate_tasks.py sets each task's `max_gen_toks` from it: no byte-level tokenizer needs more tokens.
With groups, the rows of all others are kept. Needs the data sets of the measured groups in midalign's cache
(midalign data list). xSID and FLORES-200 are not measured.
"""

import argparse

from generate_tasks import GROUPS, TABLE, UNMEASURED, Group, measured_bytes

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
    """Measure the answers of the given groups, by default of all, and write the table."""
    measurable = [group for group in GROUPS if group.name not in UNMEASURED]
    parser = argparse.ArgumentParser(description="Measure the longest gold answers.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help="default: all that can be measured")
    names = parser.parse_args().groups or [group.name for group in measurable]
    if unknown := set(names) - {group.name for group in measurable}:
        parser.error(f"no measured group {', '.join(sorted(unknown))}")
    known = measured_bytes()
    lines = ["group\ttask\tbytes\n"]
    for group in measurable:
        sizes = known.get(group.name, {})
        if group.name in names:
            sizes = {task: longest_target(group, task) for task in group.languages()}
        lines += [f"{group.name}\t{task}\t{size}\n" for task, size in sizes.items()]
    TABLE.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
