"""Read the records of two git revisions. The second one may be untrusted.

Only blobs of records are read, and nothing is checked out. So links, filters and hooks of a revision have no
effect.
"""

import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import zstandard

from midalign.errors import MidalignError
from midalign.leaderboard.load import RECORD_PATH
from midalign.leaderboard.submission import RESULTS, BoardChange
from midalign.leaderboard.trust import LOG
from midalign.record import ITEMS_SUFFIX, SUFFIX, items_path

LARGEST_FILE = 20_000_000
"""Bytes of a submitted file. The published ones have less than 200,000."""
LARGEST_CHANGE = 200_000_000
"""Bytes of all submitted files."""
MOST_FILES = 1000
"""Submitted files, two per record."""
LARGEST_ITEMS = 500_000_000
"""Bytes of a submitted items file after decompression."""
REGULAR = "100644"
"""Mode of a file that is neither a link, nor executable, nor a submodule."""


@dataclass(frozen=True)
class TreeEntry:
    """A file of a git tree."""

    mode: str
    digest: str
    size: int


def change_of_revisions(repository: Path, published: str, proposed: str, scratch: Path) -> BoardChange:
    """Return the change of the records between two revisions. Their files are written into `scratch`.

    Args:
        repository: a git repository.
        published: revision of the published board.
        proposed: the board with the change, such as the merge of a pull request.
        scratch: an empty folder.

    Raises MidalignError for an unknown revision.
    """
    before, after = (_tree(repository, revision) for revision in (published, proposed))
    altered = {path for path in {*before, *after} if before.get(path) != after.get(path)}
    old, new = _below_results(before), _below_results(after)
    others = {path for path in altered if not path.startswith(f"{RESULTS}/")}
    logs = {path for path in altered - others if path.endswith(f"/{LOG}")}
    inside = {path.removeprefix(f"{RESULTS}/") for path in altered - others - logs}

    # 1. Files that are no records or too large. Their records are not read.
    problems = {path: problem for path in sorted(inside) if (problem := _problem(path, new))}
    if problem := _change_problem([new[path] for path in inside if path in new]):
        problems = dict.fromkeys(inside, problem)
    # 2. The published records, and those of which one of the two files differs.
    touched = {_record_of(path) for path in inside}
    unread = {_record_of(path) for path in problems}
    written = _write(repository, old, _records(old), scratch / "published")
    read = touched - unread
    changed = _write(repository, new, [name for name in _records(new) if name in read], scratch / "proposed")
    for name, file in changed.items():
        if problem := _unpacked_problem(name, items_path(file)):
            problems[name] = problem
    changed = {name: file for name, file in changed.items() if name not in problems}
    kept = {name: file for name, file in written.items() if name not in read or name in problems}
    distinct = tuple(dict.fromkeys(problems.values()))
    return BoardChange(written, kept | changed, distinct, tuple(sorted(others)), tuple(sorted(logs)))


def _tree(repository: Path, revision: str) -> dict[str, TreeEntry]:
    """Return the files of a revision by their path."""
    if not shutil.which("git"):
        raise MidalignError("git is not installed. Install it: `review` reads revisions with git")
    try:
        tree = _git(repository, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{tree}}")
        listed = _git(repository, "ls-tree", "-r", "-z", "-l", "--full-tree", tree.decode().strip())
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise MidalignError(
            f"{revision} is not a revision of the repository {repository}: {said[-1]}"
        ) from error
    entries = {}
    for line in filter(None, listed.split(b"\0")):
        facts, path = line.split(b"\t", 1)
        mode, _, digest, size = facts.decode().split()
        entries[path.decode(errors="replace")] = TreeEntry(mode, digest, int(size) if size.isdigit() else 0)
    return entries


def _git(repository: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(
        ["git", "-C", str(repository), *arguments], input=stdin, check=True, capture_output=True
    ).stdout


def _below_results(tree: Mapping[str, TreeEntry]) -> dict[str, TreeEntry]:
    prefix = f"{RESULTS}/"
    return {path.removeprefix(prefix): entry for path, entry in tree.items() if path.startswith(prefix)}


def _record_of(path: str) -> str:
    """Return the record that a file belongs to. A file that is no record is returned as it is."""
    return path.removesuffix(ITEMS_SUFFIX) + SUFFIX if path.endswith(ITEMS_SUFFIX) else path


def _records(tree: Mapping[str, TreeEntry]) -> list[str]:
    return [path for path in tree if RECORD_PATH.fullmatch(path)]


def _problem(path: str, tree: Mapping[str, TreeEntry]) -> str:
    """Return why a file must not be among the records, or nothing. Removed files are in order."""
    entry = tree.get(path)
    if entry is None:
        return ""
    if not RECORD_PATH.fullmatch(_record_of(path)):
        return (
            f"{path} is not a file of a record: expected NAME{SUFFIX} and NAME{ITEMS_SUFFIX}, at most one "
            f"folder deep"
        )
    if entry.mode != REGULAR:
        return f"{path} is not a regular file (mode {entry.mode}). Expected mode {REGULAR}"
    if entry.size > LARGEST_FILE:
        return f"{path} has {entry.size:,} bytes. The limit is {LARGEST_FILE:,}"
    if _record_of(path) not in tree:
        return f"{path} belongs to no record: {_record_of(path)} is missing"
    return ""


def _change_problem(entries: Collection[TreeEntry]) -> str:
    """Return why a change is too large to be read, or nothing."""
    size = sum(entry.size for entry in entries)
    if len(entries) > MOST_FILES:
        return f"{len(entries):,} files of records change. The limit is {MOST_FILES:,}"
    if size > LARGEST_CHANGE:
        return f"Files of records with {size:,} bytes change. The limit is {LARGEST_CHANGE:,}"
    return ""


def _unpacked_problem(name: str, items: Path) -> str:
    """Return why an items file must not be decompressed, or nothing."""
    try:
        size = zstandard.get_frame_parameters(items.read_bytes()).content_size
    except (OSError, zstandard.ZstdError):
        return ""  # the check says what is wrong with it
    if size == zstandard.CONTENTSIZE_UNKNOWN or size <= LARGEST_ITEMS:
        return ""  # without a size in its header, zstandard does not decompress the file
    return f"{name}: its items have {size:,} bytes. The limit is {LARGEST_ITEMS:,}"


def _write(
    repository: Path, tree: Mapping[str, TreeEntry], records: Collection[str], folder: Path
) -> dict[str, Path]:
    """Write the two files of each record, and return the first by its path below RESULTS."""
    files = [path for name in records for path in (name, str(items_path(Path(name)))) if path in tree]
    for path, content in zip(files, _blobs(repository, [tree[path].digest for path in files]), strict=True):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return {name: folder / name for name in records}


def _blobs(repository: Path, digests: Collection[str]) -> Iterator[bytes]:
    """Yield the contents of blobs, as `git cat-file --batch` prints them."""
    output = _git(
        repository, "cat-file", "--batch", stdin="".join(f"{digest}\n" for digest in digests).encode()
    )
    place = 0
    for _ in digests:
        end = output.index(b"\n", place)
        size = int(output[place:end].split()[2])
        yield output[end + 1 : end + 1 + size]
        place = end + 1 + size + 1
