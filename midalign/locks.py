"""Locks between processes: one holder at a time, released by the kernel when the holder dies."""

import errno
import fcntl
import logging
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

SHOWN = 120
"""Characters of the holder's command in a message."""


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that is about to be written.

    Where another process holds it, name that process in a warning and wait. The lock is that of
    flock(2) on `.<name>.lock` beside `target`: it ends with its process, and machines share it where their
    file system does. The file names its holder and is removed at the end. A file system without locks is used
    without one, with a warning.
    """
    path = target.with_name(f".{target.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = _acquire(path, target)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        log.warning("%s has no file locks: run one command at a time there", path.parent)
        path.unlink(missing_ok=True)
        yield
        return
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: who waits for it finds it without a name
        os.close(descriptor)


def _acquire(path: Path, target: Path) -> int:
    """Return the descriptor of the locked file."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor, target)
            if _is_at(path, descriptor):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, _holder().encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the holder has removed the file


def _lock(descriptor: int, target: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 4096, 0).decode(errors="replace") or "another process"
        log.warning("Waiting for %s to finish with %s", holder, target)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the descriptor is of the file that has this path now."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder() -> str:
    """Return what a waiting process says of this one."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    command = shlex.join([name, *sys.argv[1:]])
    shown = command if len(command) <= SHOWN else f"{command[:SHOWN]} ..."
    return f"process {os.getpid()} on {socket.gethostname()} ({shown})"
