"""What a slot filling task costs beside the model: loading, scoring, standard errors; in processor time.

usage: python scripts/benchmarks/slot_task.py [TASK]      default: midalign_slot_en, from local data
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from midalign.families import slot  # noqa: E402
from midalign.metrics import bootstrap  # noqa: E402
from midalign.metrics.slot import METRICS  # noqa: E402
from midalign.tasks import tasks_dir  # noqa: E402


def timed(what: str, run: Callable[[], Any]) -> Any:
    """Run and print the seconds."""
    start, wall = time.process_time(), time.perf_counter()
    result = run()
    print(f"{what}: {time.process_time() - start:.3f} s ({time.perf_counter() - wall:.3f} s on the clock)")
    return result


def main() -> None:
    """Measure and print."""
    import datasets
    import lm_eval.api.task
    from lm_eval.tasks import TaskManager

    assert datasets, lm_eval.api.task  # lm-eval's own start is not ours to measure
    name = sys.argv[1] if len(sys.argv) > 1 else "midalign_slot_en"
    folder = str(tasks_dir())
    manager = timed("index our files", lambda: TaskManager(include_path=folder, include_defaults=False))
    task = timed(f"load {name}", lambda: manager.load([name])["tasks"][name])
    docs = list(task.test_docs())
    counts = timed(f"score {len(docs)} right answers", lambda: [slot.counts(d, d["target"]) for d in docs])
    array = np.array(counts)
    timed("one standard error", lambda: bootstrap.stderr(array, METRICS["slot_f1"]))
    timed("the others", lambda: [bootstrap.stderr(array, metric) for metric in METRICS.values()])


if __name__ == "__main__":
    main()
