"""What scoring costs: whole test sets of damaged answers, with the standard errors of all metrics.

usage: python scripts/benchmarks/scoring.py [GROUP]...      default: midalign_slot, midalign_json_call and
                                                            midalign_mt_ntrex out of English
"""

import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from midalign import harness  # noqa: E402
from midalign.evaluate.external_outputs import pooled_metrics  # noqa: E402
from midalign.families import family  # noqa: E402

PROCESSES = {"translation": 2}
"""Slot filling and JSON are scored by one process."""


def answers(targets: Sequence[str]) -> list[str]:
    """The right answer of another item, in turn with one's own, of which a tenth of the words is dropped, and
    a tenth doubled: JSON does not survive that, so half of it would not be read further."""
    draw = random.Random(0)
    found = []
    for number, target in enumerate(targets):
        words = target.split(" ")
        damaged = (word for word in words for _ in range(draw.choices((0, 1, 2), (1, 8, 1))[0]))
        found.append(targets[number - 1] if number % 2 else " ".join(damaged))
    return found


def score(name: str) -> tuple[int, float]:
    """Items of a task, and seconds for their counts, metrics and standard errors."""
    metadata = harness.metadata(name)
    own = family(metadata["family"])
    documents = [dict(document) for document in own.dataset(**metadata)["test"]]
    pairs = list(zip(documents, answers([document["target"] for document in documents]), strict=True))
    start = time.perf_counter()
    counts = np.array([own.counts(document, answer) for document, answer in pairs], np.int64)
    pooled_metrics(counts, metadata)
    return len(documents), time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    for group in sys.argv[1:] or ("midalign_slot", "midalign_json_call", "midalign_mt_ntrex"):
        names = [name for name in harness.expand([group]) if "_ntrex_" not in name or "_ntrex_en-" in name]
        processes = PROCESSES.get(harness.metadata(names[0])["family"], 1)
        start = time.perf_counter()
        if processes == 1:
            scored = [score(name) for name in names]
        else:
            with ProcessPoolExecutor(processes) as pool:
                scored = list(pool.map(score, names))
        items, seconds = sum(n for n, _ in scored), sum(s for _, s in scored) / processes
        whole = time.perf_counter() - start
        print(
            f"{group}: {len(names)} tasks, {items} items: {seconds:.1f} s of scoring on {processes} cores, "
            f"{1e3 * seconds * processes / items:.3f} ms an item; {whole:.1f} s with loading",
            flush=True,
        )


if __name__ == "__main__":
    main()
