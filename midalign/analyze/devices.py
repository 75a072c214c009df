"""Share work among devices, with one process per device."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from midalign.errors import EngineError

DoneCallback = Callable[[int, int], None]
"""Progress callback `(done, total)`."""

Work = Callable[[Sequence[Any]], Iterable[None]]
"""Processes its items on the current device in order, and yields after each."""

POLL = 0.5
"""Seconds between polls of the processes."""


def share_among_devices(
    work: Work, items: Sequence[Any], devices: Sequence[str], report: DoneCallback
) -> None:
    """Process each item once, round-robin over devices. `work` stores its own results.

    A single device is used by this process. For several, `work` is pickled. Raises EngineError if a process
    ends before its work is done, and stops the others.
    """
    report(0, len(items))
    if not items:
        return
    devices = devices[: len(items)]
    if len(devices) == 1:
        for done, _ in enumerate(work(items), start=1):
            report(done, len(items))
        return

    from torch.multiprocessing import get_context
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    # One counter per process: a shared lock would never be released if its holder were killed.
    done = get_context("spawn").Array("i", len(devices), lock=False)
    processes = start_processes(
        _run_device, (work, items, devices, done), len(devices), join=False, daemon=True, start_method="spawn"
    )
    try:
        while not processes.join(POLL):
            report(sum(done), len(items))
    except (ProcessRaisedException, ProcessExitedException) as error:
        reason = str(error).strip().splitlines()[-1]
        raise EngineError(
            f"The process of {devices[error.error_index]} ended early: {reason}. "
            f"Finished parts are kept. Rerun the same command to resume"
        ) from error
    report(len(items), len(items))


def _run_device(number: int, work: Work, items: Sequence[Any], devices: Sequence[str], done: Any) -> None:
    """Run the process of one device."""
    import torch

    if devices[number].startswith("cuda"):
        torch.cuda.set_device(devices[number])
    for _ in work(items[number :: len(devices)]):
        done[number] += 1
