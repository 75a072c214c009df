"""The command line: one module a command, each parses, calls the library and prints."""

import errno
import sys
from collections.abc import Callable

from midalign.errors import MidalignError


def run(command: Callable[[], object]) -> None:
    """Run a command; what users can mend ends in one screen on stderr, without a traceback.

    Exit status: 1 for a MidalignError or a full disk, 130 for Ctrl-C.
    """
    try:
        command()
    except MidalignError as error:
        sys.exit(f"midalign: {error}")
    except KeyboardInterrupt:
        print(
            "midalign: interrupted; what was finished is kept, the same command goes on from there",
            file=sys.stderr,
        )
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.exit(
            f"midalign: the disk is full ({error.filename or 'no file named'}); free space, then the same command"
        )


def main() -> None:
    """Entry point of `midalign`."""
    from midalign.cli.app import app

    run(lambda: app(standalone_mode=True))
