"""Memory on the GPU by process, sampled while a command runs."""

import subprocess
import time

QUERY = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
MOST_MEBIBYTES = 1024
"""Most memory that the trainer may hold when the engine starts: about a CUDA context."""


def sample_memory() -> dict[int, int]:
    """Return the mebibytes of each process on the GPU."""
    done = subprocess.run(QUERY, capture_output=True, text=True, check=False)
    rows = (line.split(",") for line in done.stdout.splitlines())
    return {int(row[0]): int(row[1]) for row in rows if len(row) == 2 and row[1].strip().isdecimal()}


def watch_memory(process: "subprocess.Popen[str]", deadline: float) -> list[dict[int, int]]:
    """Return a sample per second until the process ends or the deadline has passed."""
    samples = []
    while process.poll() is None and time.monotonic() < deadline:
        samples.append(sample_memory())
        time.sleep(1)
    return samples


def held_beside_others(samples: list[dict[int, int]], pid: int, before: set[int]) -> int | None:
    """Return the most mebibytes of `pid` while a process that was not there `before` is on the GPU as well.

    None if there was no such moment, as in containers where nvidia-smi sees no process.
    """
    held = [sample.get(pid, 0) for sample in samples if set(sample) - before - {pid}]
    seen = any(pid in sample for sample in samples)
    return max(held) if held and seen else None
