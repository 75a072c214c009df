"""What answers without a model score on the mini benchmark: the most frequent of training, and a copy.

usage: python scripts/benchmarks/trivial_answers.py      (test split, mean over the tasks of each group, in %)
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from midalign import harness
from midalign.families import family
from midalign.metrics import scorer

Answer = Callable[[list[dict[str, Any]], dict[str, Any]], str]


@cache
def _majority(targets: tuple[str, ...]) -> str:
    return Counter(targets).most_common(1)[0][0]


def majority(training: list[dict[str, Any]], doc: dict[str, Any]) -> str:
    """The most frequent target of the training split."""
    return _majority(tuple(one["target"] for one in training))


def copy(training: list[dict[str, Any]], doc: dict[str, Any]) -> str:
    """The text of the prompt."""
    return str(doc.get("utterance") or doc["source"])


def score(task: str, answer: Answer) -> float:
    """The headline of a task in per cent."""
    metadata = harness.metadata(task)
    own, scored = family(metadata["family"]), scorer(metadata["family"])
    splits: Any = own.dataset(**metadata)
    training, docs = list(splits["train"]), list(splits["test"])
    counts = np.array([own.counts(doc, answer(training, doc)) for doc in docs])
    headline = scored.METRICS[scored.HEADLINE]
    value = float(headline(counts.sum(0)))
    return value if headline.percent else 100 * value


def main() -> None:
    """A line a group."""
    for group in ("midalign_mini_slot", "midalign_mini_mt", "midalign_mini_json"):
        tasks = harness.expand([group])
        headline = scorer(harness.metadata(tasks[0])["family"]).HEADLINE
        shares = [
            f"{name} {np.mean([score(task, answer) for task in tasks]):.1f}"
            for name, answer in ANSWERS.items()
        ]
        print(f"{group}, {headline}: {', '.join(shares)}")


ANSWERS: dict[str, Answer] = {"majority": majority, "copy": copy}

if __name__ == "__main__":
    main()
