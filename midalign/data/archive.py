"""Read the members of a file, folder or archive one by one, without unpacking them to disk."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from midalign.errors import DataError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")

Wanted = Callable[[str], bool]


def members(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of the files whose name `wanted` accepts.

    Names come without folders and without `.xz` or `.gz`. Archives in a folder are searched too. Raises
    DataError if `path` does not exist, is damaged or cannot be read.
    """
    try:
        if not path.exists():
            raise DataError(f"No file or folder {path}")
        yield from _members(path, wanted)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        gzip.BadGzipFile,
        RuntimeError,  # raised by zipfile for a password or an unknown compression
    ) as error:
        raise DataError(
            f"{path} is damaged or truncated ({error}). Get it from its publisher again"
        ) from error
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read ({error.strerror})") from error


def _members(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and wanted(_name(file.name)):
                yield _name(file.name), _expand(file.name, file.read_bytes())
            elif file.is_file() and file.name.endswith(ARCHIVES):
                yield from members(file, wanted)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if wanted(_name(name)):
                    yield _name(name), _expand(name, archive.read(name))
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() and wanted(_name(member.name)) else None
                if content is not None:
                    yield _name(member.name), _expand(member.name, content.read())
    elif wanted(_name(path.name)):
        yield _name(path.name), _expand(path.name, path.read_bytes())


def _name(name: str) -> str:
    return PurePosixPath(name).name.removesuffix(".xz").removesuffix(".gz")


def _expand(name: str, content: bytes) -> bytes:
    if name.endswith(".xz"):
        return lzma.decompress(content)
    return gzip.decompress(content) if name.endswith(".gz") else content
