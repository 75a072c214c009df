"""How commands end: errors in one screen, and exit statuses."""

import errno
import signal
import sys
import threading
from collections.abc import Callable

from midalign.errors import MidalignError
from midalign.escaping import terminal_lines

NOT_VERIFIABLE = 3
"""Exit status of a record that cannot be verified here."""
ALTERED = 4
"""Exit status of a record whose items were altered."""
INTERRUPTED = 130
RETRY_SECONDS = 0.1
"""Wait before an ignored Ctrl-C is sent again, so that the code that ignored it has ended."""


def run_command(command: Callable[[], object]) -> None:
    """Run a command. Errors that users can fix end in one screen on stderr, without a traceback.

    Exit status: 1 for a MidalignError or a full disk, 2 for wrong usage (typer's), 130 for Ctrl-C.
    `midalign leaderboard verify` also has 3 and 4.
    """
    sys.unraisablehook = _repeat_interrupt
    try:
        command()
    except MidalignError as error:
        sys.exit(f"midalign: {terminal_lines(str(error))}")
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        # typer turns Ctrl-C into this status and prints nothing.
        if end.code == INTERRUPTED:
            _interrupted()
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "no file named"
        sys.exit(f"midalign: the disk is full ({where}). Free some space, then rerun the same command.")


def _repeat_interrupt(unraisable: "sys.UnraisableHookArgs") -> None:
    """Send Ctrl-C again if Python ignored it, as it does in `__del__` and in weakref callbacks."""
    main_thread = threading.main_thread().ident
    if issubclass(unraisable.exc_type, KeyboardInterrupt) and main_thread is not None:
        threading.Timer(RETRY_SECONDS, signal.pthread_kill, [main_thread, signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(unraisable)


def _interrupted() -> None:
    print(
        "midalign: interrupted. Finished work is kept. Rerun the same command to resume.",
        file=sys.stderr,
    )
    sys.exit(INTERRUPTED)
