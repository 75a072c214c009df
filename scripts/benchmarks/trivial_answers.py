"""What answers without a model score on the mini benchmark: the most frequent of training, and a copy.

usage: python scripts/benchmarks/trivial_answers.py      (test split, mean over the tasks of each group, in %)
       python scripts/benchmarks/trivial_answers.py --output leaderboard/references.json    (rows of the page)
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
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
    """A line a group, and the file of the page's reference rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, help="where the rows of the page go")
    output = parser.parse_args().output
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ANSWERS}
    for group in ("midalign_mini_slot", "midalign_mini_mt", "midalign_mini_json"):
        tasks = {task: harness.metadata(task) for task in harness.expand([group])}
        first = next(iter(tasks.values()))
        shares = []
        for name, answer in ANSWERS.items():
            scores = {data["language"]: score(task, answer) for task, data in tasks.items()}
            shares.append(f"{name} {np.mean(list(scores.values())):.1f}")
            stored = {code: round(value / 100, 6) for code, value in sorted(scores.items())}
            version = float(first["version"])
            rows[name].append({"group": group, "version": version, "split": "test", "scores": stored})
        print(f"{group}, {scorer(first['family']).HEADLINE}: {', '.join(shares)}")
    if output:
        references = [{"title": TITLES[name], "groups": groups} for name, groups in rows.items()]
        output.write_text(json.dumps({"references": references}, indent=1) + "\n", "utf-8")


ANSWERS: dict[str, Answer] = {"majority": majority, "copy": copy}
TITLES = {"majority": "most frequent training answer", "copy": "copy of the source"}

if __name__ == "__main__":
    main()
