"""The start of vLLM: its environment, its share of the GPUs' memory, and its failures as one screen."""

import atexit
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any, TextIO

from midalign.device import device, free_memory
from midalign.errors import EngineError, MidalignError, first_line
from midalign.evaluate.gpu_memory import RESERVE, describe_memory, memory_share
from midalign.evaluate.install import present_vllm_cpu, require_vllm

log = logging.getLogger(__name__)

ERROR_LINE = re.compile(r"(?:^|\s)((?:[\w.]+\.)?\w*(?:Error|Exception)): (.+)$")
"""The last line of a traceback."""

SAYS_NOTHING = ("Engine core initialization failed", "EngineCore encountered an issue", "WorkerProc")
"""Errors of the calling process that stand for an error of vLLM's processes."""

MEMORY_MOVED = ("Error in memory profiling", "is less than desired GPU memory utilization")
"""Errors of a start during which another process took or freed memory: determine_available_memory in
vllm/v1/worker/gpu_worker.py, request_memory in vllm/v1/worker/utils.py."""

MEMORY = (
    *MEMORY_MOVED,
    "out of memory",
    "OutOfMemory",
    "No available memory for the cache blocks",
    "KV cache is needed",
)
"""Parts of the errors of a full GPU. The last two are those of vllm/v1/core/kv_cache_utils.py."""

LONGEST_CAUSE = 500

HIDDEN: tuple[str, ...] = ("__spec__", "__file__")
"""Names in a program by which a spawned process finds it."""


def prepare_vllm() -> None:
    """Set the variables that vLLM reads when it is imported. Raises EngineError if it cannot run here."""
    require_vllm()
    # A fork of a process that has used CUDA cannot use it again.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # It samples by top-k and top-p, which greedy answers do not, and compiles kernels when it starts.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    if device() == "cpu":
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    present_vllm_cpu()


class EngineLog:
    """A file with the output of vLLM's processes, removed when Python exits unless vLLM fails."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="midalign-vllm-", suffix=".log")
        os.close(handle)
        self.path = Path(name)
        self.is_kept = False
        atexit.register(self._remove)

    def _remove(self) -> None:
        if not self.is_kept:
            self.path.unlink(missing_ok=True)

    @contextmanager
    def receive_output(self) -> Iterator[None]:
        """Let processes that are started inside write to the file. Python's own output stays where it is."""
        with self.path.open("ab") as file, _kept_streams():
            originals = {number: os.dup(number) for number in (1, 2)}
            try:
                for number in originals:
                    os.dup2(file.fileno(), number)
                yield
            finally:
                for number, original in originals.items():
                    os.dup2(original, number)
                    os.close(original)

    def cause_of(self, error: BaseException) -> str:
        """Return the cause of vLLM's failure: from the error, or from the file if the error has none."""
        cause = f"{type(error).__name__}: {first_line(error)}"
        if any(text in cause for text in SAYS_NOTHING):
            found = map(ERROR_LINE.search, self.path.read_text("utf-8", "replace").splitlines())
            causes = [": ".join(match.groups()) for match in found if match]
            told = [line for line in causes if not any(text in line for text in SAYS_NOTHING)]
            cause = told[-1] if told else "its process ended without an error message"
        return cause[:LONGEST_CAUSE]

    def failure(self, problem: str, cause: str, gpus: int) -> EngineError:
        """Return the error for a failure of vLLM, and keep the file. `gpus` are those that vLLM uses."""
        self.is_kept = True
        lines = [f"{problem}: {cause}"]
        if is_full(cause):
            lines += describe_memory(gpus)
            lines.append(
                "Free GPU memory, split the model over more GPUs (--tensor-parallel N), or use the other "
                "engine: --engine hf"
            )
        else:
            lines.append("Use the other engine: --engine hf")
        return EngineError("\n".join([*lines, f"vLLM's output is in {self.path}"]))


def is_full(cause: str) -> bool:
    """Return whether a failure of vLLM is one of memory."""
    return any(text in cause for text in MEMORY)


@contextmanager
def _kept_streams() -> Iterator[None]:
    """Let `sys.stdout` and `sys.stderr` write where they do now, while their file descriptors are changed."""
    streams = sys.stdout, sys.stderr
    copies = [_copy(stream, number) for number, stream in enumerate(streams, start=1)]
    sys.stdout, sys.stderr = copies
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for copy, stream in zip(copies, streams, strict=True):
            if copy is not stream:
                copy.close()


def _copy(stream: TextIO, number: int) -> TextIO:
    """Return a stream that writes to a copy of descriptor `number`, or the stream if it writes elsewhere."""
    try:
        is_descriptor = stream.fileno() == number
    except (AttributeError, OSError, ValueError):  # replaced by an object without a descriptor
        is_descriptor = False
    if not is_descriptor:
        return stream
    stream.flush()
    return os.fdopen(os.dup(number), "w", buffering=1)


def start_vllm(start: Callable[[float | None], None], gpus: int, engine_log: EngineLog) -> None:
    """Start vLLM with a share of the memory that is free now.

    A start that fails because another process took or freed memory meanwhile is repeated once, with twice the
    reserve.

    Args:
        start: starts vLLM with a `gpu_memory_utilization`, or with its own if that is None.
        gpus: number of GPUs whose free memory decides the share; 0 leaves it to `start`.
        engine_log: receives the output of vLLM's processes.

    Raises EngineError with the cause if vLLM does not start.
    """
    for is_last in (False, True):
        try:
            with engine_log.receive_output(), hidden_main():
                start(memory_share(gpus, RESERVE * (1 + is_last)) if gpus else None)
            return
        except MidalignError:
            raise
        except Exception as error:  # vLLM and torch raise a dozen classes
            cause = engine_log.cause_of(error)
            if is_last or not gpus or not any(text in cause for text in MEMORY_MOVED):
                raise engine_log.failure("vLLM did not start", cause, gpus) from error
        log.warning("The free GPU memory changed while vLLM started (%s). Starting it again", cause)
        free_memory()


@contextmanager
def hidden_main() -> Iterator[None]:
    """Let processes that are started inside not import the program that runs.

    A spawned process imports it to find what it defines (multiprocessing.spawn.get_preparation_data). A
    script without `if __name__ == "__main__"` would start over in each process of vLLM, which needs nothing
    of it.
    """
    main: dict[str, Any] = vars(sys.modules["__main__"])
    hidden = {name: main.pop(name) for name in HIDDEN if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main |= hidden


def watch_processes(engine_core: Any) -> None:
    """Let waiting calls raise EngineDeadError once a process of vLLM ends without a message, as if killed.

    vLLM's own monitor lets the next call raise, but not one that waits: SyncMPClient.get_output in
    vllm/v1/engine/core_client.py would wait forever. An engine within this process needs no watch.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    manager = getattr(getattr(engine_core, "resources", None), "engine_manager", None)
    if manager is None or not hasattr(manager, "sentinels"):
        return
    sentinels, outputs, calls = manager.sentinels(), engine_core.outputs_queue, engine_core.utility_results

    def watch() -> None:
        connection.wait(sentinels)
        outputs.put_nowait(EngineDeadError())
        for call in list(calls.values()):
            if not call.done():
                call.set_exception(EngineDeadError())

    threading.Thread(target=watch, daemon=True, name="midalign-vllm-watch").start()
