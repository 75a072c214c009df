"""What our tasks add to `lm_eval ls tasks`, and what it takes to load all of MASSIVE and one language of it.

usage: python scripts/benchmarks/task_index.py [RUNS]      midalign installed, MASSIVE added

Commands are whole processes, with and without our plug-in in turn; loading is in fresh processes too, whose
own start and import of lm-eval are taken off by one that imports and loads nothing.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LOAD = """
import datasets, lm_eval.api.task, sys
from lm_eval.tasks import TaskManager
from midalign.tasks import tasks_dir
if sys.argv[1:]:
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    for task in manager.load(sys.argv[1:])["tasks"].values():
        len(task.test_docs())
"""


def seconds(*command: str, **environment: str) -> float:
    """Wall time of a command."""
    begin = time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    lm_eval = str(Path(sys.executable).with_name("lm_eval"))
    listing = (lm_eval, "ls", "tasks")
    seconds(*listing)  # fills the disk's cache
    pairs = [(seconds(*listing, MIDALIGN_NO_AUTOLOAD="1"), seconds(*listing)) for _ in range(runs)]
    more = sorted(ours / plain - 1 for plain, ours in pairs)
    plain = statistics.median(first for first, _ in pairs)
    print(
        f"lm_eval ls tasks: {plain:.1f} s without ours, {statistics.median(more):+.1%} with "
        f"(median of {runs}, {more[0]:+.1%} to {more[-1]:+.1%})"
    )
    for task in ("midalign_slot_en", "midalign_slot"):
        fresh = (sys.executable, "-c", LOAD)
        loads = [seconds(*fresh, task) - seconds(*fresh) for _ in range(runs)]
        print(f"loading {task}: {statistics.median(loads):.2f} s ({min(loads):.2f} to {max(loads):.2f})")


if __name__ == "__main__":
    main()
