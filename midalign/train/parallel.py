"""Train several adapters of a recipe at once, one process per adapter."""

import multiprocessing
import os
import queue
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from midalign.errors import MidalignError, TrainingError
from midalign.reporting import ignore_progress
from midalign.train.progress import OnTrainProgress
from midalign.train.recipe import Recipe
from midalign.train.run import is_trained, train_recipe, training_runs

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from midalign.train.progress import TrainProgress

    Messages = multiprocessing.Queue[TrainProgress | MidalignError]

PATIENCE = 0.2
"""Seconds to wait for a message before the processes are checked."""


def train_in_parallel(
    recipe: Recipe, jobs: int, report: OnTrainProgress = ignore_progress, arms: Collection[str] | None = None
) -> list[Path]:
    """Train the missing adapters of these arms, None for all, up to `jobs` at a time, and return all folders.

    The processes share the threads of this one. Small models train faster in this way, since their matrix
    products are too small for several threads. An adapter has the same weights as one that
    `train_recipe` trains with as many threads.

    Raises the error of the first process that fails, and ends the others. Their checkpoints stay.
    """
    import torch

    if jobs > 1 and os.environ.get("WORLD_SIZE", "1") != "1":
        raise TrainingError(
            "--jobs starts one process per adapter, and does not work in a launch of several processes. "
            "Remove --jobs"
        )
    runs = [run for run in training_runs(recipe, arms) if not is_trained(run[2], recipe, run[0])]
    jobs = min(jobs, len(runs))
    if jobs > 1:
        context = multiprocessing.get_context("spawn")
        messages: Messages = context.Queue()
        threads = max(torch.get_num_threads() // jobs, 1)
        processes = [
            context.Process(target=_train_one, args=(recipe, arm, seed, threads, messages))
            for arm, seed, _ in runs
        ]
        _run_all(processes, jobs, messages, report)
    # Nothing is left to train, but the checks of finished adapters are.
    return train_recipe(recipe, report, arms)


def _run_all(
    processes: "Sequence[BaseProcess]", jobs: int, messages: "Messages", report: OnTrainProgress
) -> None:
    """Run processes, up to `jobs` at a time, and report what they send."""
    waiting, running = list(processes), list["BaseProcess"]()
    message: TrainProgress | MidalignError | None = None
    try:
        while waiting or running or message is not None:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0))
                running[-1].start()
            try:
                message = messages.get(timeout=PATIENCE)
            except queue.Empty:
                message = None
            if isinstance(message, MidalignError):
                raise message
            if message is not None:
                report(message)
            for process in [process for process in running if not process.is_alive()]:
                running.remove(process)
                if process.exitcode:
                    raise TrainingError(
                        f"a training process ended with status {process.exitcode}. Its checkpoints are "
                        "kept: rerun the same command to resume, with --jobs 1 if memory was short"
                    )
    finally:
        for process in running:
            process.terminate()
            process.join()


def _train_one(recipe: Recipe, arm: str, seed: int, threads: int, messages: "Messages") -> None:
    """Train one adapter in this process, and send its progress and its error."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        train_recipe(recipe.model_copy(update={"seeds": [seed]}), messages.put, [arm])
    except MidalignError as error:
        messages.put(error)
    except KeyboardInterrupt:
        pass  # the parent was interrupted too, and says so


def _end_with_parent() -> None:
    """Wait for the end of the parent, even by a signal, and exit."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
