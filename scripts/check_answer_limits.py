"""Print the share of gold answers within the token limit, by task and tokenizer.

usage: python scripts/check_answer_limits.py [--longest N] BASE [BASE ...]     (mini, or folders)

Two limits are checked on the test splits of the data sets in the cache: that of the task files, which plain
`lm_eval` uses, and that of `midalign eval`, which fits the base's tokenizer and context. Tasks with answers
beyond a limit are listed at the end. `--longest` checks the N longest answers of each task only.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from generate_tasks import GROUPS, Group, max_gen_toks
from measure_targets import targets

from midalign import bases
from midalign.errors import DataError
from midalign.evaluate import tokenizers
from midalign.evaluate.answer_limits import answer_limit, context_tokens


@dataclass(frozen=True)
class Fit:
    """Gold answers of one task within its two limits, by one tokenizer."""

    group: str
    task: str
    base: str
    answers: int
    in_task_limit: int
    """Answers within the limit of the task file."""
    in_eval_limit: int
    """Answers within the limit of `midalign eval`."""
    longest: int
    """Tokens of the longest answer."""

    @property
    def fits(self) -> bool:
        """Whether all answers are within both limits."""
        return self.answers == self.in_task_limit == self.in_eval_limit


@dataclass(frozen=True)
class Base:
    """The properties of a base that determine its limits."""

    name: str
    tokenizer: Any
    context: int | None
    """Tokens, None if the configuration lacks it."""


def read_base(name: str) -> Base:
    """Return a base by name or folder, without its weights."""
    folder = bases.resolve(name)
    return Base(Path(folder).name, tokenizers.load_tokenizer(folder), context_tokens(folder))


def measure(group: Group, task: str, base: Base, longest: int | None = None) -> Fit:
    """Count the answers within the limits, in the tokens of a blank and the answer, as models generate it.

    Raises DataError where the data set is not in the cache.
    """
    answers = sorted(targets(group, task), key=lambda answer: -len(answer.encode()))[:longest]
    generated = base.tokenizer([f" {answer}" for answer in answers], add_special_tokens=False)["input_ids"]
    lengths = [len(ids) for ids in generated]
    limits = (max_gen_toks(group, task), answer_limit(answers, base.tokenizer, base.context))
    within = [sum(length <= limit for length in lengths) for limit in limits]
    return Fit(group.name, task, base.name, len(answers), *within, max(lengths))


def fits(group: Group, loaded: Sequence[Base], longest: int | None = None) -> list[Fit]:
    """Return a result per task and base, without the tasks whose data is not in the cache."""
    found = []
    for task in group.languages():
        with suppress(DataError):
            found += [measure(group, task, base, longest) for base in loaded]
    return found


def main() -> None:
    """Print a line per group and tokenizer, and the tasks with answers beyond a limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bases", nargs="+", metavar="BASE")
    parser.add_argument("--longest", type=int)
    asked = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # data sets are not downloaded for this
    loaded = [read_base(name) for name in asked.bases]
    cut: list[Fit] = []
    for group in GROUPS:
        results = fits(group, loaded, asked.longest)
        if not results:
            print(f"{group.name}: its data is not in the cache")
        for base in loaded:
            own = [fit for fit in results if fit.base == base.name]
            total = sum(fit.answers for fit in own)
            if total:
                shares = [
                    100 * sum(getattr(fit, limit) for fit in own) / total
                    for limit in ("in_task_limit", "in_eval_limit")
                ]
                print(
                    f"{group.name:20} {base.name:8} {len(own):4} tasks {total:8,} answers   "
                    f"lm_eval {shares[0]:9.4f}%   midalign eval {shares[1]:9.4f}%",
                    flush=True,
                )
        cut += [fit for fit in results if not fit.fits]
    for fit in cut:
        beyond = (fit.answers - fit.in_task_limit, fit.answers - fit.in_eval_limit)
        print(
            f"{fit.group} {fit.task} {fit.base}: of {fit.answers:,} answers {beyond[0]} beyond the task's "
            f"limit, {beyond[1]} beyond midalign eval's. Longest: {fit.longest} tokens"
        )
    print(f"{len(cut)} tasks with answers beyond a limit" if cut else "100% everywhere")


if __name__ == "__main__":
    main()
