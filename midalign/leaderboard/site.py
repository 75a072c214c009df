"""The published form of a board: a folder with the page, the records, digests and frozen versions."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from midalign.errors import MidalignError
from midalign.leaderboard.build import FILE_SUMS, RECORD_SUMS
from midalign.leaderboard.exports import export_csv
from midalign.leaderboard.load import RECORD_PATH, Run, load_runs, record_sums
from midalign.leaderboard.page.write import FOLDER, PUBLICATION, SCRIPTS, START, STYLE, render_template
from midalign.leaderboard.trust import LOG, file_sha256
from midalign.record import SUFFIX, items_path
from midalign.record.machine_paths import machine_paths

RECORDS = "records"
VERSIONS = "versions"
REPLACED = (FOLDER, "plots", RECORDS)
"""Folders whose old files a new publication removes. Frozen versions and foreign files stay."""
SCORES = "scores.csv"
SUMS = "SHA256SUMS"
CITATION = "citation.bib"
FILES_PAGE = "files.html"
"""Page with the downloads and versions."""
TITLE = "midalign leaderboard"
LISTED = 5
"""Changed files that an error names."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_VERSION = re.compile(r"[0-9]{4}\.(0[1-9]|1[0-2])(\.[1-9][0-9]{0,3})?")
_PLOT_PATH = re.compile(r"plots/[A-Za-z0-9][A-Za-z0-9._@=+-]*\.png")


def check_version(version: str) -> None:
    """Raise MidalignError unless a version is a year and a month, such as `2026.12` or `2026.12.1`."""
    if not _VERSION.fullmatch(version):
        raise MidalignError(
            f"{version!r} is not a version: expected year and month, such as 2026.12, or 2026.12.1 for a "
            f"second one of the month"
        )


def versions_in(paths: Sequence[str]) -> list[str]:
    """Return the frozen versions among the paths of a published board, newest first."""
    parts = [path.split("/") for path in paths]
    names = {
        part[1] for part in parts if part[0] == VERSIONS and len(part) > 2 and _VERSION.fullmatch(part[1])
    }
    return sorted(names, key=lambda name: [int(number) for number in name.split(".")], reverse=True)


def write_site(
    board: Path,
    results: Path,
    folder: Path,
    versions: Sequence[str] = (),
    new_version: str | None = None,
) -> None:
    """Write the published form of a built board into an empty folder.

    Args:
        board: folder that `build_board` wrote.
        results: the records that the board was built from.
        folder: where the files go.
        versions: frozen versions that the target has already, newest first. The page links them.
        new_version: also freeze the board as this version, in `versions/NAME/`.

    Raises MidalignError for a board that was not built from these records, for files that were changed after
    the build, for symbolic links among them, and for records with folders of this machine, and RecordError
    as `load_runs`.
    """
    _check_board(board, results)
    _check_files(board, results)
    runs = load_runs(results)
    _check_machine_paths(board, results, runs)
    scores = export_csv(runs)
    if new_version:
        _write_content(board, results, folder / VERSIONS / new_version, scores, version=new_version)
        versions = versions_in([f"{VERSIONS}/{name}/" for name in (*versions, new_version)])
    _write_content(board, results, folder, scores, versions=versions)


def _check_board(board: Path, results: Path) -> None:
    """Raise MidalignError unless the board was built from the records as they are."""
    build = _build_command(board, results)
    sums = board / RECORD_SUMS
    if not (board / "index.html").is_file():
        raise MidalignError(f"{board} has no built board. Build it: {build}")
    if not sums.is_file() or not (board / FILE_SUMS).is_file():
        raise MidalignError(f"{board} was built by an earlier version of midalign. Build it again: {build}")
    built, current = sums.read_text("utf-8").splitlines(), record_sums(results).splitlines()
    differing = sorted({line.partition("  ")[2] for line in {*built} ^ {*current}})
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise MidalignError(
            f"{board} was not built from the records of {results}: {differing[0]}{more} differ. "
            f"Build it again: {build}"
        )
    for path in (line.partition("  ")[2] for line in current):
        if Path(path).name != LOG and not RECORD_PATH.fullmatch(path):
            raise MidalignError(
                f"{results / path}: names of published records and their folders have letters, digits and "
                f"._@=+- only. Rename it, and build the board again: {build}"
            )


def _check_files(board: Path, results: Path) -> None:
    """Raise MidalignError unless the files to publish are as the build wrote them."""
    lines = (board / FILE_SUMS).read_text("utf-8").splitlines()
    written = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    changed = [f"{path} is missing" for path in written if not (board / path).is_file()]
    changed += [
        f"{path} was edited"
        for path, digest in written.items()
        if (board / path).is_file() and file_sha256(board / path) != digest
    ]
    if not changed:  # leaderboard.json, which names the plots, is as it was
        published = ("index.html", "README.md", *_board_paths(board))
        changed = [
            f"{path} was added" for path in published if _regular_file(board, path) and path not in written
        ]
    if changed:
        more = f", and {len(changed) - LISTED} more" if len(changed) > LISTED else ""
        raise MidalignError(
            f"{board} has changed since it was built: {', '.join(changed[:LISTED])}{more}. Nothing was "
            f"published. Build it again, which discards the changes: {_build_command(board, results)}"
        )


def _build_command(board: Path, results: Path) -> str:
    return f"midalign leaderboard build --results {results} --output {board}"


def _check_machine_paths(board: Path, results: Path, runs: Sequence[Run]) -> None:
    """Raise MidalignError for the first record that names a folder of this machine."""
    for run in runs:
        if paths := machine_paths(run.record):
            raise MidalignError(
                f"{results / run.file} names a folder of this machine: {paths[0]}. Replace it by the name of "
                f"the model or data, and build the board again: {_build_command(board, results)}"
            )


def _write_content(
    board: Path,
    results: Path,
    folder: Path,
    scores: str,
    *,
    version: str = "",
    versions: Sequence[str] = (),
) -> None:
    """Write the files of the current board, or of a frozen version."""
    # 1. What the build wrote, and the records. Nothing else may leave this machine, such as outputs.
    for path in _board_paths(board):
        _copy(board, path, folder)
    sums = [line.partition("  ") for line in record_sums(results).splitlines()]
    records = [line for line in sums if Path(line[2]).name != LOG]
    for _, _, path in sums:
        _copy(results, path, folder / RECORDS)
    for _, _, path in records:
        _copy(results, items_path(Path(path)).as_posix(), folder / RECORDS)
    (folder / SCORES).write_text(scores, "utf-8")
    # 2. The page, with a link to the list of files.
    page = _regular_file(board, "index.html").read_text("utf-8")
    (folder / "index.html").write_text(page.replace(PUBLICATION, _banner(version)), "utf-8")
    _copy(board, "README.md", folder)
    # 3. Digests, and the citation that names their digest. The list of files shows the citation.
    listed = [
        {
            "name": path.removesuffix(SUFFIX),
            "path": f"{RECORDS}/{path}",
            "counts": f"{RECORDS}/{items_path(Path(path)).as_posix()}",
            "sha256": digest,
        }
        for digest, _, path in records
    ]
    digests = folder_sums(folder)
    citation = bibtex_entry(version, hashlib.sha256(digests.encode()).hexdigest()) if version else ""
    (folder / SUMS).write_text(digests, "utf-8")
    if version:
        (folder / CITATION).write_text(citation, "utf-8")
    files_page = render_template(
        "files.html.j2",
        title=f"{TITLE}, version {version}" if version else TITLE,
        version=version,
        versions=versions,
        citation=citation,
        citation_file=CITATION,
        records=listed,
        scores=SCORES,
        sums=SUMS,
    )
    (folder / FILES_PAGE).write_text(files_page, "utf-8")


def _board_paths(board: Path) -> Iterator[str]:
    """Yield the paths of a board's files that are published as they are."""
    yield "leaderboard.json"
    for name in (*SCRIPTS, START, STYLE):
        yield f"{FOLDER}/{name}"
    for name in ("data", "pairs"):
        for path in sorted((board / FOLDER / name).glob("*.js")):
            yield path.relative_to(board).as_posix()
    sections = json.loads((board / "leaderboard.json").read_text("utf-8"))["sections"]
    for plot in (section["plot"] for section in sections):
        if not _PLOT_PATH.fullmatch(plot):
            raise MidalignError(
                f"{board / 'leaderboard.json'} names the plot {plot!r}, expected plots/NAME.png. Build the "
                f"board again"
            )
        yield plot


def _copy(source: Path, path: str, target: Path) -> None:
    """Copy `source/path` to `target/path`. Raises MidalignError as `_regular_file` does."""
    file = _regular_file(source, path)
    (target / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target / path)


def _regular_file(folder: Path, path: str) -> Path:
    """Return `folder/path`. Raises MidalignError if it is missing or behind a symbolic link in the folder."""
    file = folder / path
    if not file.is_file():
        raise MidalignError(f"{file} is missing. Restore it, or build the board again")
    if file.resolve() != folder.resolve() / path:
        raise MidalignError(
            f"{file} is a symbolic link or behind one, expected a file. Replace the link by the file, or "
            f"build the board again"
        )
    return file


def _banner(version: str) -> str:
    """Return the HTML that stands in place of PUBLICATION."""
    if version:
        return (
            f'<p><strong>Version {version}</strong>, frozen. <a href="{FILES_PAGE}">Files and citation</a>. '
            f'<a href="../../index.html">Current board</a>.</p>'
        )
    return f'<p><a href="{FILES_PAGE}">Records, downloads and frozen versions</a></p>'


def folder_sums(folder: Path) -> str:
    """Return the digests of all files of a board except frozen versions, as `sha256sum` prints them.

    Files that depend on the digests have none.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    lines = []
    for name in sorted(paths):
        if name not in (SUMS, CITATION, FILES_PAGE) and not name.startswith(f"{VERSIONS}/"):
            with paths[name].open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines)


def bibtex_entry(version: str, digest: str) -> str:
    """Return the BibTeX entry of a frozen version. `digest` is the sha256 of its SHA256SUMS."""
    year, month, *_ = version.split(".")
    address = _project_address()
    fields = [
        "author = {{The midalign authors}}",
        f"title = {{{TITLE}, version {version}}}",
        f"year = {{{year}}}",
        f"month = {MONTHS[int(month) - 1]}",
        f"note = {{sha256 of its {SUMS}: {digest}}}",
        *([f"url = {{{address}}}"] if address else []),
    ]
    return f"@misc{{midalign-leaderboard-{version},\n" + "".join(f"  {field},\n" for field in fields) + "}\n"


def _project_address() -> str:
    """Return the first address of pyproject.toml's [project.urls], empty if there is none."""
    try:
        addresses = metadata("midalign").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    return next((str(entry).partition(", ")[2] for entry in addresses), "")
