"""Publishing a board into a folder, onto a branch of a bare repository, and to a stand-in for the hub."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlparse

import pytest
import yaml
from hub_stand_in import TOKEN, HubStandIn, serve
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from synthetic_records import share, write
from test_page import chromium  # noqa: F401
from typer.testing import CliRunner

from midalign.cli.app import app
from midalign.errors import MidalignError
from midalign.hub_errors import explain_hub_errors
from midalign.leaderboard import build, publish, site
from midalign.leaderboard.build import build_board
from midalign.leaderboard.exports import record_frame

SCORES = {"en": 70, "es": 60, "de": 30, "sw": 10, "fr": 40}


def add_record(results: Path, name: str, arm: str, seed: int | None = None, gain: int = 0) -> None:
    write(results, name, arm, {code: share(100, right + gain) for code, right in SCORES.items()}, seed=seed)


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Built boards of two times, their records in results/, and files that must not leave the machine."""
    first = tmp_path_factory.mktemp("boards") / "first"
    add_record(first / "results", "base", "base")
    add_record(first / "results" / "arms", "baseline", "baseline", 1)
    (first / "results" / "arms" / "baseline.private-outputs.jsonl.zst").write_bytes(b"secret")
    (first / "results" / "notes.txt").write_text("secret")
    (first / "plots").mkdir()
    (first / "plots" / "of-an-earlier-build.png").write_text("secret")
    build_board(first / "results", first)
    second = shutil.copytree(first, first.with_name("second"))
    add_record(second / "results", "aligned", "aligned", 1, gain=5)
    (second / "results" / "arms" / "baseline.json").unlink()
    build_board(second / "results", second)
    return [first, second]


@pytest.fixture
def board(boards: list[Path], tmp_path: Path) -> Path:
    """The first board, with the records base and arms/baseline."""
    return shutil.copytree(boards[0], tmp_path / "board")


@pytest.fixture
def change_board(boards: list[Path], board: Path) -> Callable[[], None]:
    """Replace the board by the second one, with the records base and aligned."""

    def change() -> None:
        shutil.rmtree(board)
        shutil.copytree(boards[1], board)

    return change


def command(board: Path, *options: str):
    return CliRunner().invoke(
        app, ["leaderboard", "publish", "--results", str(board / "results"), *map(str, options)]
    )


def run(board: Path, *options: str) -> str:
    result = command(board, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refusal(board: Path, *options: str) -> str:
    result = command(board, *options)
    assert isinstance(result.exception, MidalignError), result.output
    return str(result.exception)


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check_sums(folder: Path) -> None:
    """Let coreutils verify a published folder."""
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
    assert done.returncode == 0
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    known = {"SHA256SUMS", "files.html", "citation.bib", ".nojekyll"}
    assert listed == {path for path in contents(folder) if not path.startswith("versions/")} - known


def check_links(folder: Path) -> None:
    """See that every link of every HTML file leads to a file of the site."""

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            links.extend(value for name, value in attributes if name in ("href", "src") and value)

    for page in folder.rglob("*.html"):
        links: list[str] = []
        Links().feed(page.read_text("utf-8"))
        assert len(links) > 5
        for link in map(urlparse, links):
            if link.scheme != "data":
                assert (page.parent / unquote(link.path)).exists(), (page, link)
                assert not link.scheme


def accept_changes(board: Path) -> None:
    """Renew the digests of a board's files, as a build that had written them would."""
    sums = board / build.FILE_SUMS
    paths = [line.partition("  ")[2] for line in sums.read_text().splitlines()]
    done = subprocess.run(["sha256sum", *paths], cwd=board, capture_output=True, text=True, check=True)
    sums.write_text(done.stdout)


# --- A folder


def test_a_dry_run_tells_what_would_be_written_and_writes_nothing(board, tmp_path):
    before = contents(tmp_path)
    plan = run(board, "--to", tmp_path / "public", "--freeze", "2026.12")
    assert contents(tmp_path) == before
    assert "Nothing was written. To publish, add --yes" in plan
    done = run(board, "--to", tmp_path / "public", "--freeze", "2026.12", "--yes")
    assert plan.partition("Nothing was written")[0] == done.partition("Published:")[0]
    rows = [line.split() for line in done.splitlines()]
    written = contents(tmp_path / "public")
    size = sum(map(len, written.values()))
    assert ["total", f"{len(written):,}", f"{size / 1000:,.1f}"] in rows
    inside = [content for path, content in written.items() if path.startswith("versions/2026.12/")]
    assert ["versions/2026.12/", f"{len(inside)}", f"{sum(map(len, inside)) / 1000:,.1f}"] in rows
    assert "Message: Publish the leaderboard: 2 records, version 2026.12" in done


def test_the_folder_holds_the_board_its_records_and_nothing_else(board, tmp_path):
    run(board, "--to", tmp_path / "public", "--yes")
    published = contents(tmp_path / "public")
    assert not any(b"secret" in content for content in published.values())
    records = {p: content for p, content in contents(board / "results").items() if content != b"secret"}
    assert contents(tmp_path / "public" / "records") == records
    assert published["leaderboard.json"] == (board / "leaderboard.json").read_bytes()
    assert published["page/data/index.js"] == (board / "page/data/index.js").read_bytes()
    assert set(published) >= {"index.html", "files.html", "README.md", "page/start.js"}
    check_sums(tmp_path / "public")
    check_links(tmp_path / "public")
    scores = (tmp_path / "public" / "scores.csv").read_text().splitlines()
    assert len(scores) == 1 + len(record_frame(board / "results"))


def test_a_frozen_version_stays_as_it_is(board, tmp_path, change_board):
    public = tmp_path / "public"
    run(board, "--to", public, "--freeze", "2026.11", "--yes")
    frozen = contents(public / "versions" / "2026.11")
    change_board()
    run(board, "--to", public, "--freeze", "2026.12", "--yes")
    message = refusal(board, "--to", public, "--freeze", "2026.11", "--yes")
    assert "Version 2026.11 is already published" in message
    assert "--freeze 2026.11.1" in message
    assert contents(public / "versions" / "2026.11") == frozen
    assert "records/arms/baseline.json" in frozen
    assert not (public / "records" / "arms").exists()
    assert (public / "records" / "aligned.json").is_file()
    for folder in (public, public / "versions" / "2026.11", public / "versions" / "2026.12"):
        check_sums(folder)
    check_links(public)
    versions = re.findall(r'href="versions/([\d.]+)/index.html"', (public / "files.html").read_text())
    assert versions == ["2026.12", "2026.11"]


def test_the_citation_pins_every_figure_of_its_version(board, tmp_path):
    run(board, "--to", tmp_path / "public", "--freeze", "2026.12", "--yes")
    version = tmp_path / "public" / "versions" / "2026.12"
    digest = subprocess.run(["sha256sum", version / "SHA256SUMS"], capture_output=True, text=True, check=True)
    entry = (version / "citation.bib").read_text()
    assert entry.startswith("@misc{midalign-leaderboard-2026.12,\n")
    assert entry.count("{") == entry.count("}")
    fields = dict(re.findall(r"^  (\w+) = (.*),$", entry, re.MULTILINE))
    assert fields["author"] == "{{The midalign authors}}"
    assert (fields["year"], fields["month"]) == ("{2026}", "dec")
    assert digest.stdout.split()[0] in fields["note"]
    assert "url" not in fields or fields["url"].startswith("{http")
    page = (version / "files.html").read_text()
    assert "midalign-leaderboard-2026.12" in page


@pytest.mark.parametrize(
    "name", ["2026.13", "v1", "2026.12/..", "../2026.12", "2026.12.0", "２０２６.12", ""]
)
def test_versions_are_dates(board, tmp_path, name):
    assert "expected year and month" in refusal(board, "--to", tmp_path / "public", "--freeze", name, "--yes")


def test_a_folder_of_other_files_is_left_alone(board, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "index.html").write_text("mine")
    for target in (other, board, tmp_path):
        assert "is not a published board" in refusal(board, "--to", target, "--yes")
    assert contents(other) == {"index.html": b"mine"}
    assert "is a file" in refusal(board, "--to", other / "index.html", "--yes")


@pytest.mark.parametrize("other_files", [(), ("SHA256SUMS", "scores.csv", "leaderboard.json")])
def test_a_site_with_a_page_of_files_is_left_alone(board, tmp_path, other_files):
    thesis = tmp_path / "thesis"
    (thesis / "records").mkdir(parents=True)
    for name in ("files.html", "index.html", "records/thesis.txt", *other_files):
        (thesis / name).write_text("mine")
    before = contents(thesis)
    assert "is not a published board" in refusal(board, "--to", thesis, "--yes")
    assert contents(thesis) == before


@pytest.mark.parametrize("place", ["page/data/x.js", "README.md", "results/base.json", "page/pairs"])
def test_symbolic_links_in_the_board_are_not_followed(board, tmp_path, place):
    """A link could publish any file of the machine."""
    secret = tmp_path / "secret"
    if (board / place).exists():
        (board / place).rename(secret)
    else:
        secret.write_text("secret")
    (board / place).symlink_to(secret)
    assert "symbolic link" in refusal(board, "--to", tmp_path / "public", "--yes")
    assert not (tmp_path / "public").exists()


@pytest.mark.parametrize("plot", ["results/notes.txt", "plots/../results/notes.txt", "/etc/hostname"])
def test_plots_are_read_from_their_folder_alone(board, tmp_path, plot):
    path = board / "leaderboard.json"
    content = json.loads(path.read_text())
    content["sections"][0]["plot"] = plot
    path.write_text(json.dumps(content))
    accept_changes(board)
    assert "expected plots/NAME.png" in refusal(board, "--to", tmp_path / "public", "--yes")
    assert not (tmp_path / "public").exists()


def test_folders_of_the_evaluating_machine_are_not_published(board, tmp_path):
    by_language = {code: share(100, right) for code, right in SCORES.items()}
    write(board / "results", "local", "base", by_language, base="/home/alice/model")
    build_board(board / "results", board)
    message = refusal(board, "--to", tmp_path / "public", "--yes")
    assert "local.json names a folder of this machine: base.name: /home/alice/model" in message
    assert not (tmp_path / "public").exists()


def test_the_log_of_verifications_is_published_as_the_board_was_built_from_it(board, tmp_path):
    record = board / "results" / "base.json"
    log = record.with_name("verifications.jsonl")
    digest = hashlib.sha256(record.read_bytes()).hexdigest()
    log.write_text(json.dumps({"sha256": digest, "verdict": "verified"}) + "\n")
    assert "verifications.jsonl differ" in refusal(board, "--to", tmp_path / "public")
    build_board(board / "results", board)
    run(board, "--to", tmp_path / "public", "--yes")
    assert (tmp_path / "public" / "records" / log.name).read_bytes() == log.read_bytes()
    check_sums(tmp_path / "public")
    check_links(tmp_path / "public")
    log.unlink()
    assert "verifications.jsonl differ" in refusal(board, "--to", tmp_path / "public")


def test_a_concurrent_publication_into_the_folder_is_not_overwritten(board, tmp_path, monkeypatch):
    public = tmp_path / "public"
    run(board, "--to", public, "--yes")
    original = publish.write_site

    def publish_meanwhile(*arguments, **named):
        """Let another process freeze the same version after the folder has been read."""
        original(*arguments, **named)
        monkeypatch.setattr(publish, "write_site", original)
        run(board, "--to", public, "--freeze", "2026.12", "--yes")
        (public / "versions" / "2026.12" / "index.html").write_text("theirs")

    monkeypatch.setattr(publish, "write_site", publish_meanwhile)
    message = refusal(board, "--to", public, "--freeze", "2026.12", "--yes")
    assert "probably by another publication" in message
    assert (public / "versions" / "2026.12" / "index.html").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("link", ["versions", "versions/2026.12"])
def test_a_version_behind_a_link_is_not_frozen_again(board, tmp_path, link):
    public = tmp_path / "public"
    run(board, "--to", public, "--freeze", "2026.12", "--yes")
    (public / link).rename(tmp_path / "archive")
    (public / link).symlink_to(tmp_path / "archive")
    before = contents(tmp_path / "archive")
    assert "is a symbolic link" in refusal(board, "--to", public, "--freeze", "2026.12", "--yes")
    assert contents(tmp_path / "archive") == before


def test_publishing_writes_through_no_link(board, tmp_path):
    public = tmp_path / "public"
    run(board, "--to", public, "--yes")
    (public / "index.html").rename(tmp_path / "elsewhere.html")
    (public / "index.html").symlink_to(tmp_path / "elsewhere.html")
    (tmp_path / "elsewhere.html").write_text("mine")
    run(board, "--to", public, "--yes")
    assert (tmp_path / "elsewhere.html").read_text() == "mine"
    assert not (public / "index.html").is_symlink()


def test_the_folder_keeps_its_mode(board, tmp_path):
    public = tmp_path / "public"
    public.mkdir(mode=0o700)
    run(board, "--to", public, "--yes")
    assert stat.S_IMODE(public.stat().st_mode) == 0o700


def test_the_proposed_version_is_free(board, tmp_path):
    public = tmp_path / "public"
    for version in ("2026.12", "2026.12.1"):
        run(board, "--to", public, "--freeze", version, "--yes")
    assert "--freeze 2026.12.2" in refusal(board, "--to", public, "--freeze", "2026.12", "--yes")


def test_files_that_others_add_to_the_folder_stay(board, tmp_path):
    public = tmp_path / "public"
    run(board, "--to", public, "--yes")
    (public / "CNAME").write_text("example.org")
    run(board, "--to", public, "--yes")
    assert (public / "CNAME").read_text() == "example.org"


def test_an_interrupted_publication_leaves_the_old_folder(board, tmp_path, monkeypatch):
    public = tmp_path / "public"
    run(board, "--to", public, "--freeze", "2026.11", "--yes")
    before = contents(tmp_path)
    original = Path.rename

    def fail_at_the_end(path, target):
        if Path(target) == public and not path.name.endswith(".old"):
            raise OSError("no space left")
        return original(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_end)
    assert isinstance(command(board, "--to", public, "--yes").exception, OSError)
    assert contents(tmp_path) == before


def test_a_board_of_other_records_is_refused(board, tmp_path):
    path = board / "results" / "arms" / "baseline.json"
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 2.0'))
    message = refusal(board, "--to", tmp_path / "public", "--yes")
    assert "arms/baseline.json differ" in message
    assert f"midalign leaderboard build --results {board / 'results'} --output {board}" in message
    build_board(board / "results", board)
    run(board, "--to", tmp_path / "public", "--yes")
    shutil.rmtree(board / "page")
    assert "Build it again" in refusal(board, "--to", tmp_path / "public")
    (board / "index.html").unlink()
    assert "no built board" in refusal(board, "--to", tmp_path / "public")


def test_the_build_lists_every_file_that_it_wrote(board):
    sums = board / build.FILE_SUMS
    done = subprocess.run(["sha256sum", "--check", "--quiet", "--strict", build.FILE_SUMS], cwd=board)
    assert done.returncode == 0
    listed = {line.partition("  ")[2] for line in sums.read_text().splitlines()}
    others = {"plots/of-an-earlier-build.png", build.FILE_SUMS}
    assert listed == {path for path in contents(board) if not path.startswith("results/")} - others


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("README.md", "edited"),
        ("index.html", "edited"),
        ("leaderboard.json", "edited"),
        ("page/data/index.js", "edited"),
        ("page/board.css", "missing"),
        ("plots/midalign_mini_slot-mini-test-full.png", "missing"),
        ("page/data/x.js", "added"),
    ],
)
def test_boards_edited_by_hand_are_refused(board, tmp_path, place, change):
    if change == "missing":
        (board / place).unlink()
    else:
        with (board / place).open("ab") as file:
            file.write(b" ")
    message = refusal(board, "--to", tmp_path / "public", "--yes")
    assert f"{place} {'is' if change == 'missing' else 'was'} {change}. Nothing was published" in message
    assert f"midalign leaderboard build --results {board / 'results'} --output {board}" in message
    assert not (tmp_path / "public").exists()
    build_board(board / "results", board)
    run(board, "--to", tmp_path / "public", "--yes")


def test_an_error_names_some_of_many_changed_files(board, tmp_path):
    shutil.rmtree(board / "plots")
    for path in (board / "page").glob("*.js"):
        path.unlink()
    message = refusal(board, "--to", tmp_path / "public")
    assert message.count(" is missing") == site.LISTED
    assert ", and 5 more. Nothing was published" in message


def test_names_that_need_escaping_are_refused(board, tmp_path):
    folder = board / "results" / "a folder"
    (board / "results" / "arms").rename(folder)
    build_board(board / "results", board)
    assert "Rename it" in refusal(board, "--to", tmp_path / "public")


def test_options_of_another_target_are_refused(board):
    assert "git repository" in refusal(board, "--to", "pages")
    assert "NAMESPACE/NAME" in refusal(board, "--to", "hub")
    assert "--repository belongs to" in refusal(board, "--to", "public", "--repository", "x")
    assert "--branch belongs to" in refusal(board, "--to", "hub", "--repository", "x/y", "--branch", "z")


def test_published_pages_work_in_a_browser(board, tmp_path, chromium):  # noqa: F811
    from axe_playwright_python.sync_playwright import Axe

    public = tmp_path / "public"
    run(board, "--to", public, "--freeze", "2026.12", "--yes")
    page = chromium.new_context(viewport={"width": 360, "height": 740}).new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    for folder in (public, public / "versions" / "2026.12"):
        page.goto(f"file://{folder}/index.html")
        page.wait_for_selector("main[data-drawn]")
        page.click("text=citation" if folder != public else "text=Records, downloads")
        page.wait_for_selector("text=Counts per item")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        options = {"preload": False, "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag22aa"]}}
        assert Axe().run(page, options=options).response["violations"] == []
    page.click("text=the current board")
    page.wait_for_selector("main[data-drawn]")
    assert page.url == f"file://{public}/index.html"
    assert not problems


# --- A branch


def git(*words: object, cwd: Path | None = None) -> str:
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    done = subprocess.run(["git", *identity, *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare repository with a branch `main`, for an author with a name and odd settings."""
    for key, value in {"NAME": "someone", "EMAIL": "someone@example.org"}.items():
        monkeypatch.setenv(f"GIT_AUTHOR_{key}", value)
        monkeypatch.setenv(f"GIT_COMMITTER_{key}", value)
    settings = tmp_path / "gitconfig"
    settings.write_text(
        "[core]\nautocrlf = true\nexcludesFile = ~/ignored\nattributesFile = ~/attributes\n"
        '[filter "upper"]\nclean = tr a-z A-Z\n'
    )
    (tmp_path / "attributes").write_text("*.csv filter=upper\n*.md ident\n")
    (tmp_path / "ignored").write_text("*.csv\n*.zst\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("HOME", str(tmp_path))
    source, bare = tmp_path / "source", tmp_path / "bare.git"
    git("init", "--quiet", "--initial-branch", "main", source)
    (source / "code.py").write_text("1\n")
    git("add", ".", cwd=source)
    git("commit", "--quiet", "-m", "Begin", cwd=source)
    git("clone", "--quiet", "--bare", source, bare)
    return bare


def branch_files(repository: Path, tmp_path: Path, branch: str = "gh-pages") -> dict[str, bytes]:
    clone = tmp_path / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    plain = ["-c", "core.autocrlf=false"]
    git(*plain, "clone", "--quiet", "--branch", branch, "--single-branch", repository, clone)
    return contents(clone)


def log(repository: Path, branch: str = "gh-pages") -> list[str]:
    return git("log", "--format=%s", branch, cwd=repository).splitlines()


def test_a_new_branch_holds_the_site_alone(board, tmp_path, repository):
    (board / "plots" / "midalign_mini_slot-mini-test-full.png").write_bytes(b"\x89PNG\r\n")  # bytes stay
    accept_changes(board)
    main = log(repository, "main")
    to_pages = ["--to", "pages", "--repository", repository]
    assert "Nothing was written" in run(board, *to_pages)
    assert git("branch", "--list", "gh-pages", cwd=repository) == ""
    run(board, *to_pages, "--yes")
    run(board, "--to", tmp_path / "public", "--yes")
    files = branch_files(repository, tmp_path)
    assert files == contents(tmp_path / "public") | {".nojekyll": b""}
    check_sums(tmp_path / "clone")
    assert log(repository) == ["Publish the leaderboard: 2 records"]
    assert log(repository, "main") == main


def test_each_publication_is_one_commit_and_keeps_versions(board, tmp_path, repository, change_board):
    to_pages = ["--to", "pages", "--repository", repository, "--branch", "site", "--yes"]
    run(board, *to_pages, "--freeze", "2026.11")
    frozen = {p: c for p, c in branch_files(repository, tmp_path, "site").items() if "versions/" in p}
    assert "Nothing has changed" in run(board, *to_pages)
    change_board()
    output = run(board, *to_pages)
    assert "Removed: 2 files" in output
    assert "Frozen versions that stay: 2026.11" in output
    assert log(repository, "site") == [
        "Publish the leaderboard: 2 records",
        "Publish the leaderboard: 2 records, version 2026.11",
    ]
    files = branch_files(repository, tmp_path, "site")
    assert {p: c for p, c in files.items() if "versions/" in p} == frozen
    assert "records/aligned.json" in files
    assert "records/arms/baseline.json" not in files
    assert "already published" in refusal(board, *to_pages, "--freeze", "2026.11")


@pytest.mark.parametrize("branch_exists", [True, False])
def test_a_concurrent_push_is_explained_and_not_overwritten(
    board, tmp_path, repository, monkeypatch, change_board, branch_exists
):
    to_pages = ["--to", "pages", "--repository", repository, "--yes"]
    if branch_exists:
        run(board, *to_pages)
        git("fetch", "--quiet", repository, "gh-pages:gh-pages", cwd=tmp_path / "source")
    original = publish.write_site

    def publish_meanwhile(*arguments, **named):
        """Let somebody else push between the reading of the branch and the own push."""
        original(*arguments, **named)
        source = tmp_path / "source"
        git("checkout", "--quiet", *([] if branch_exists else ["--orphan"]), "gh-pages", cwd=source)
        (source / "theirs.txt").write_text("theirs")
        git("add", ".", cwd=source)
        git("commit", "--quiet", "-m", "Theirs", cwd=source)
        git("push", "--quiet", repository, "gh-pages", cwd=source)

    monkeypatch.setattr(publish, "write_site", publish_meanwhile)
    change_board()
    message = refusal(board, *to_pages)
    assert "probably by another publication" in message
    assert "Rerun the same command" in message
    assert log(repository)[0] == "Theirs"
    assert "theirs.txt" in branch_files(repository, tmp_path)


def test_branches_and_repositories_that_are_no_board_are_refused(board, tmp_path, repository):
    message = refusal(board, "--to", "pages", "--repository", repository, "--branch", "main", "--yes")
    assert "found code.py, expected files.html" in message
    assert log(repository, "main") == ["Begin"]
    message = refusal(board, "--to", "pages", "--repository", tmp_path / "nothing", "--yes")
    assert "does not appear to be a git repository" in message


def test_a_branch_whose_name_git_cannot_lock_is_explained(board, repository):
    """No other publication is blamed for a branch below another one."""
    to_pages = ["--to", "pages", "--repository", repository, "--yes", "--branch"]
    run(board, *to_pages, "site/x")
    message = refusal(board, *to_pages, "site")
    assert "another publication" not in message
    assert "git push failed" in message


def test_a_domain_of_the_pages_stays(board, tmp_path, repository):
    source = tmp_path / "source"
    git("checkout", "--quiet", "--orphan", "gh-pages", cwd=source)
    git("rm", "--quiet", "-rf", ".", cwd=source)
    (source / "CNAME").write_text("example.org\n")
    git("add", ".", cwd=source)
    git("commit", "--quiet", "-m", "Create CNAME", cwd=source)
    git("push", "--quiet", repository, "gh-pages", cwd=source)
    run(board, "--to", "pages", "--repository", repository, "--yes")
    assert branch_files(repository, tmp_path)["CNAME"] == b"example.org\n"
    assert len(log(repository)) == 2


def test_a_password_in_a_url_is_not_printed(board):
    url = "http://user:hunt@er2@127.0.0.1:9/board.git"
    message = refusal(board, "--to", "pages", "--repository", url, "--yes")
    assert "hunt" not in message
    assert "er2" not in message
    assert "127.0.0.1:9" in message


# --- The hub


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    with serve() as server:
        yield server


@pytest.fixture
def login(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Point this process at the stand-in, logged in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


TO_HUB = ("--to", "hub", "--repository", "team/board")


def test_the_command_publishes_a_space_and_a_data_set(board, tmp_path, hub):
    """In a process of its own, which finds endpoint and token as huggingface_hub does."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    words = ["leaderboard", "publish", "--results", str(board / "results"), *TO_HUB, "--freeze", "2026.12"]
    done = subprocess.run(
        [sys.executable, "-m", "midalign", *words, "--yes"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"Published: {hub.url}/spaces/team/board" in done.stdout
    assert f"Published: {hub.url}/datasets/team/board" in done.stdout

    space = hub.repositories["space", "team/board"]
    assert space["wanted"]["sdk"] == "static"
    assert space["commits"] == ["Publish the leaderboard: 2 records, version 2026.12"]
    for path, content in space["files"].items():
        (tmp_path / "space" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "space" / path).write_bytes(content)
    for name in (".gitattributes", "style.css"):
        (tmp_path / "space" / name).unlink()
    check_sums(tmp_path / "space")
    check_links(tmp_path / "space")
    _, front, readme = space["files"]["README.md"].decode().split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["sdk"], card["datasets"]) == ("static", ["team/board"])
    assert readme.encode() == (board / "README.md").read_bytes()


def test_the_data_set_loads_as_its_card_says(board, tmp_path, hub, login):
    from datasets import load_dataset

    run(board, *TO_HUB, "--yes")
    for path, content in hub.repositories["dataset", "team/board"]["files"].items():
        (tmp_path / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / path).write_bytes(content)
    (tmp_path / "data" / ".gitattributes").unlink()
    check_sums(tmp_path / "data")
    loaded = load_dataset(
        str(tmp_path / "data"), cache_dir=str(tmp_path / "cache"), split="train"
    ).to_pandas()
    known = record_frame(board / "results")
    assert loaded[["record", "task", "metric", "n"]].equals(known[["record", "task", "metric", "n"]])
    assert (loaded["value"] - known["value"]).abs().max() < 1e-12
    card = yaml.safe_load((tmp_path / "data" / "README.md").read_text().split("---\n")[1])
    assert card["license"] == "cc-by-4.0"


def test_a_later_publication_removes_old_records_and_keeps_versions(board, hub, login, change_board):
    run(board, *TO_HUB, "--freeze", "2026.11", "--yes")
    space = hub.repositories["space", "team/board"]
    frozen = {path: content for path, content in space["files"].items() if "versions/" in path}
    change_board()
    assert "Frozen versions that stay: 2026.11" in run(board, *TO_HUB, "--yes")
    assert {path: content for path, content in space["files"].items() if "versions/" in path} == frozen
    for kind in ("space", "dataset"):
        files = hub.repositories[kind, "team/board"]["files"]
        assert "records/aligned.json" in files
        assert "records/arms/baseline.json" not in files
    assert "already published" in refusal(board, *TO_HUB, "--freeze", "2026.11", "--yes")


def test_a_dry_run_needs_no_login_and_changes_nothing(board, hub, login, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    output = run(board, *TO_HUB)
    assert f"{hub.url}/datasets/team/board" in output
    assert hub.repositories == {}
    message = refusal(board, *TO_HUB, "--yes")
    assert "Not logged in" in message
    assert "hf auth login" in message
    assert hub.repositories == {}


def test_a_token_that_may_not_write_is_explained(board, hub, login, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    message = refusal(board, *TO_HUB, "--yes")
    assert "401" in message
    assert "hf auth login" in message
    assert "hf_wrong" not in message
    assert hub.repositories == {}


def test_a_concurrent_commit_is_explained_and_not_overwritten(board, hub, login, monkeypatch, change_board):
    run(board, *TO_HUB, "--yes")
    space = hub.repositories["space", "team/board"]
    original = publish.write_site

    def publish_meanwhile(*arguments, **named):
        original(*arguments, **named)
        space["files"]["index.html"] = b"theirs"
        space["commits"].append("Theirs")

    monkeypatch.setattr(publish, "write_site", publish_meanwhile)
    change_board()
    assert "probably by another publication" in refusal(board, *TO_HUB, "--yes")
    assert space["files"]["index.html"] == b"theirs"
    assert space["commits"][-1] == "Theirs"


def test_other_repositories_of_the_hub_are_left_alone(board, hub, login):
    for kind, name in (("space", "app.py"), ("dataset", "train.csv"), ("dataset", "scores.csv")):
        hub.repositories = {(kind, "team/board"): {"files": {name: b"mine"}, "commits": [], "wanted": {}}}
        assert f"is not a published board: found {name}, expected" in refusal(board, *TO_HUB, "--yes")
        assert hub.repositories[kind, "team/board"]["files"] == {name: b"mine"}


def test_names_and_connections_that_fail_are_explained(board, hub, login, monkeypatch):
    from huggingface_hub import constants

    assert "NAMESPACE/NAME" in refusal(board, "--to", "hub", "--repository", "a b", "--yes")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal(board, *TO_HUB, "--yes")


def test_errors_of_local_files_are_not_blamed_on_the_hub():
    with pytest.raises(FileNotFoundError), explain_hub_errors("https://hub"):
        Path("/no/file").read_bytes()
    with pytest.raises(OSError, match="disk is full"), explain_hub_errors("https://hub"):
        raise OSError("disk is full")
    with pytest.raises(MidalignError, match="cannot be reached"), explain_hub_errors("https://hub"):
        raise OfflineModeIsEnabled("offline")


@pytest.mark.parametrize(("status", "wait"), [(400, False), (404, False), (429, True), (503, True)])
def test_waiting_is_advised_for_errors_that_pass(status, wait):
    error = HfHubHTTPError("no", response=SimpleNamespace(status_code=status, headers={}, request=None))
    with pytest.raises(MidalignError) as explained, explain_hub_errors("https://hub"):
        raise error
    assert ("Wait" in str(explained.value)) == wait


def test_project_addresses_are_not_invented(monkeypatch):
    """The entry has the first of [project.urls], and none if there is none."""
    package = Message()
    monkeypatch.setattr(site, "metadata", lambda name: package)
    assert "url" not in site.bibtex_entry("2026.12", "0" * 64)
    package["Project-URL"] = "Source, https://example.org/midalign"
    package["Project-URL"] = "Issues, https://example.org/issues"
    assert "  url = {https://example.org/midalign},\n" in site.bibtex_entry("2026.12", "0" * 64)
