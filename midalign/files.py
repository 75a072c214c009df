"""Files that appear whole or not at all."""

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file next to its target, then rename it.

    Readers see the old file or the whole new one, even if the disk fills up or the process is killed. The
    folder must exist. `sync` waits for the disk, so that the content survives a power failure. Files that
    can be written again do not need it.
    """
    # Not tempfile: its files are readable by their owner only, while results and caches may be shared.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")  # short: names of records are long
    try:
        with partial.open("wb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def without_folders(path: str) -> str:
    """Return the file name of an absolute path, or of `lm_eval:PATH`. Relative paths stay as they are."""
    return re.sub(r"^(lm_eval:)?[/~].*/", r"\1", path)


def is_local_path(text: str) -> bool:
    """Return whether a text has the form of a path and not of a model id of the hub."""
    return text.startswith(("/", "~", ".", "\\")) or text.count("/") > 1
