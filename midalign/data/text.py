"""Read users' text files."""

from pathlib import Path

from midalign.errors import DataError


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file, at least one. Raises DataError like `read_text`."""
    # Not splitlines, which also breaks at characters within sentences of some languages, such as U+2028.
    return read_text(path).removesuffix("\n").split("\n")


def read_text(path: Path) -> str:
    """Return a file's text, without byte order mark and without carriage returns before line feeds.

    Raises DataError if the file cannot be read, or with the line if it is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise DataError(
            f"{path}, line {line}: not UTF-8 (found byte {byte:#x}); save the file as UTF-8"
        ) from error
