"""Measure how often `midalign leaderboard verify` is right, with a model's real answers.

    python scripts/checks/verify_power.py leaderboard/results/mini.json
    python scripts/checks/verify_power.py leaderboard/results/mini.json --engine vllm
    python scripts/checks/verify_power.py RECORD --adapter FOLDER --dtype bfloat16

All items of the record are answered again once, in random groups, which are other batches than those of the
record. So some items differ from the record as in any honest rerun. Each trial draws items as `verify` does,
and takes the new answers from this run. Honest trials compare the record itself. Worst-case trials compare
records in which as many items differ as the tolerance allows. Altered trials compare records with one count
changed in 5% of the items. The script fails if an honest record is accused, or in fp32 fewer than 99% of the
altered ones.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from midalign.device import fixed_dtype
from midalign.evaluate.rerun import open_rerun, planned_rerun, scratch_folder
from midalign.leaderboard.decision import TOLERANCES, RerunRule
from midalign.leaderboard.verify import compare_answers, items_in_column_order, settings_of_record
from midalign.record import Items, read_items, read_record

GROUPS = 5
ALTERED = 0.05
LEAST = 0.99


def first_items(items: Mapping[str, Items], count: int | None) -> dict[str, Items]:
    """Return the first items of each task, all of them for None."""
    return {
        task: replace(of, doc_ids=of.doc_ids[:count], counts=of.counts[:count]) for task, of in items.items()
    }


def answer_all(
    file: Path, items: Mapping[str, Items], engine: str, dtype: str, base: str | None, adapter: Path | None
) -> dict[str, np.ndarray]:
    """Return new counts of all items by task, in the order of the record's sorted document ids."""
    record = read_record(file)
    random = np.random.default_rng(0)
    with scratch_folder() as folder, fixed_dtype(dtype):
        settings = replace(settings_of_record(record, folder, base, adapter), engine=engine)
        plan, _ = planned_rerun(settings)
        answers = {}
        with open_rerun(plan) as rerun:
            parts = {
                task: np.array_split(random.permutation(of.doc_ids), GROUPS) for task, of in items.items()
            }
            for group in range(GROUPS):
                drawn = {task: sorted(map(int, groups[group])) for task, groups in parts.items()}
                for task, counts in rerun(drawn).items():
                    answers |= {(task, doc): row for doc, row in zip(drawn[task], counts, strict=True)}
    return {task: np.array([answers[task, int(doc)] for doc in of.doc_ids]) for task, of in items.items()}


def with_changes(items: Mapping[str, Items], share: float, random: np.random.Generator) -> dict[str, Items]:
    """Return the items with one count of a share of them changed by one."""
    sizes = [len(of.doc_ids) for of in items.values()]
    chosen = np.zeros(sum(sizes), bool)
    chosen[random.permutation(len(chosen))[: round(share * len(chosen))]] = True
    changed = {}
    for (task, of), mask in zip(items.items(), np.split(chosen, np.cumsum(sizes)[:-1]), strict=True):
        counts = of.counts.copy()
        counts[mask, 1] += 1
        changed[task] = replace(of, counts=counts)
    return changed


def accusations(
    items: Sequence[Mapping[str, Items]], new: Mapping[str, np.ndarray], rule: RerunRule, count: int
) -> int:
    """Return how many of the records are accused, each with another draw."""
    places = {task: {int(doc): i for i, doc in enumerate(of.doc_ids)} for task, of in items[0].items()}

    def rerun(drawn: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
        return {task: new[task][[places[task][doc] for doc in docs]] for task, docs in drawn.items()}

    outcomes = (compare_answers(record, rerun, rule, count, seed) for seed, record in enumerate(items))
    return sum(outcome.verdict == "altered" for outcome in outcomes)


def main() -> int:
    """Print the shares, and return 1 if one misses its goal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path)
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--dtype", choices=tuple(TOLERANCES), default="float32")
    parser.add_argument("--base")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--per-task", type=int, help="answer only the first items of each task")
    parser.add_argument("--rerun", type=int, default=100)
    parser.add_argument("--trials", type=int, default=1000)
    given = parser.parse_args()
    items = items_in_column_order(read_record(given.record), read_items(given.record))
    items = first_items(items, given.per_task)
    new = answer_all(given.record, items, given.engine, given.dtype, given.base, given.adapter)
    rule, random = RerunRule(TOLERANCES[given.dtype]), np.random.default_rng(1)
    total = sum(len(of.doc_ids) for of in items.values())
    differing = sum(int((of.counts != new[task]).any(axis=1).sum()) for task, of in items.items())
    print(
        f"{given.record.stem}, {given.engine} {given.dtype}: {differing} of {total} items differ "
        f"({differing / total:.2%})"
    )
    true = {task: replace(of, counts=new[task]) for task, of in items.items()}
    honest = accusations([items] * given.trials, new, rule, given.rerun)
    worst = accusations(
        [with_changes(true, rule.tolerance, random) for _ in range(given.trials)], new, rule, given.rerun
    )
    altered = accusations(
        [with_changes(items, ALTERED, random) for _ in range(given.trials)], new, rule, given.rerun
    )
    print(
        f"accused of {given.trials}: {honest} honest, {worst} at the tolerance, {altered} with "
        f"{ALTERED:.0%} altered"
    )
    wanted = LEAST * given.trials if given.dtype == "float32" else 0
    return 1 if honest or worst or altered < wanted else 0


if __name__ == "__main__":
    sys.exit(main())
