"""`midalign leaderboard submit` and `review`, on published records and clones of a board of them."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from markdown_it import MarkdownIt
from typer.testing import CliRunner, Result

from midalign.cli.app import app
from midalign.leaderboard import revisions
from midalign.leaderboard.check import RecordCheck
from midalign.leaderboard.formatting import format_interval
from midalign.leaderboard.statistics import Estimate
from midalign.leaderboard.submission import BoardChange, ChangeReview
from midalign.leaderboard.submission_text import comment_text
from midalign.leaderboard.trust import LOG
from midalign.record import read_record

BOARD = Path(__file__).parents[2] / "leaderboard"
BASELINE = "mini-switched-baseline"
SUBMITTED = "mini-switched-switched"
SEEDS = (1, 2, 3)
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


def copy_records(pattern: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in (BOARD / "results").glob(pattern):
        if file.is_file():
            shutil.copy(file, folder)
    return folder


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of a board with the base and one seed of the baseline."""
    seed = tmp_path / "seed"
    copy_records("mini.*", seed / "leaderboard" / "results")
    copy_records(f"{BASELINE}-seed1.*", seed / "leaderboard" / "results")
    git(tmp_path, "init", "-q", "-b", "main", "seed")
    git(seed, "add", ".")
    git(seed, "commit", "-q", "-m", "Publish two records")
    git(tmp_path, "clone", "-q", "--bare", "seed", "origin.git")
    git(tmp_path, "clone", "-q", "origin.git", "clone")
    return tmp_path / "clone"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A folder with a record that the board lacks."""
    return copy_records(f"{SUBMITTED}-seed1.*", tmp_path / "new")


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def edit_items(file: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Change the lines of the items file of a record, and the digest in the record."""
    items = file.with_name(file.name.removesuffix(".json") + ".items.jsonl.zst")
    unpacked = zstandard.ZstdDecompressor().decompress(items.read_bytes())
    lines = change([json.loads(line) for line in unpacked.splitlines()])
    packed = zstandard.ZstdCompressor().compress("".join(json.dumps(line) + "\n" for line in lines).encode())
    items.write_bytes(packed)
    edit(file, lambda record: record["items"].update(sha256=hashlib.sha256(packed).hexdigest()))


def submit(tmp_path: Path, *arguments: object) -> Result:
    return CliRunner().invoke(
        app, ["leaderboard", "submit", *map(str, arguments), "--output", str(tmp_path / "submission")]
    )


def text_of(tmp_path: Path) -> str:
    (file,) = (tmp_path / "submission").glob("*.md")
    return file.read_text()


def review(clone: Path, revision: str, tmp_path: Path, published: str = "origin/main") -> tuple[Result, str]:
    output = tmp_path / "review.md"
    arguments = [revision, "--published", published, "--board", str(clone), "--output", str(output)]
    result = CliRunner().invoke(app, ["leaderboard", "review", *arguments])
    return result, output.read_text() if output.is_file() else ""


def propose(clone: Path) -> str:
    """Commit everything in the clone and return the commit."""
    git(clone, "add", "--all")
    git(clone, "commit", "-q", "-m", "Propose")
    return git(clone, "rev-parse", "HEAD").strip()


def section_of(text: str, title: str) -> str:
    return re.split(r"^## ", text.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


@pytest.mark.slow
def test_submission_shows_the_differences_of_the_published_board(clone: Path, tmp_path: Path) -> None:
    """Three seeds, submitted to a board that lacks them, have the differences of the whole board."""
    copy_records(f"{BASELINE}*", clone / RESULTS)
    propose(clone)
    git(clone, "push", "-q", "origin", "main")
    new = copy_records(f"{SUBMITTED}*", tmp_path / "new")
    result = submit(tmp_path, new, "--board", clone)
    assert result.exit_code == 0, result.output
    table = section_of(text_of(tmp_path), "Differences from baselines")

    board = json.loads((BOARD / "leaderboard.json").read_text())
    (known,) = (
        difference["means"]["slot_f1"]
        for section in board["sections"]
        for difference in section["differences"]
        if section["group"] == "midalign_mini_slot" and difference["model"].startswith("switched")
    )
    row = next(line for line in table.splitlines() if "`mini-switched: baseline`" in line)
    for name in ("all", "supervised", "aligned", "unseen"):
        assert format_interval(Estimate(**known[name])) in row, name
    assert "| 1 2 3 |" in row

    # The printed commands make the branch, and the review of the branch has the same table.
    commands = [
        line.strip() for line in result.output.partition("Next:")[2].splitlines() if line[:4] == "    "
    ]
    assert [command.split()[0] for command in commands] == ["cd", "git", "git", "git", "git"]
    for name in ("user.name", "user.email"):
        git(clone, "config", name, "test@example.org")
    subprocess.run(["bash", "-e", "-c", "\n".join(commands)], check=True, capture_output=True)
    branch = commands[1].split()[-1]
    result, comment = review(clone, f"origin/{branch}", tmp_path)
    assert result.exit_code == 0, result.output
    assert comment.startswith("**All checks pass.** Records: 3 added or changed, 0 removed.")
    assert section_of(comment, "Differences from baselines") == table
    assert "other files change too" not in comment
    (folder,) = (path for path in (clone / RESULTS).iterdir() if path.is_dir())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        file.name: file.read_bytes() for file in new.iterdir()
    }


RESULTS = Path("leaderboard") / "results"


def test_text_names_training_conditions_commands_and_licence(clone: Path, new: Path, tmp_path: Path) -> None:
    assert submit(tmp_path, new, "--board", clone).exit_code == 0
    text = text_of(tmp_path)
    assert "| `mini-switched: switched` | 1 | `mini` | `midalign_mini_slot` v2 (10) |" in text
    assert "`hf, bfloat16, cpu`" in section_of(text, "Records")
    assert "| en es ru zh | de hi tr |" in section_of(text, "Training")
    commands = section_of(text, "Reproduce")
    assert (
        "midalign eval --base mini --adapter mini-switched-switched-seed1 --adapters-only "
        "--tasks midalign_mini_slot --split test" in commands
    )
    assert re.search(r"verify leaderboard/results/mini-switched-[0-9a-f]{8}/\S+\.json --rerun 100", commands)
    licence = section_of(text, "Licence")
    assert "CC BY 4.0" in licence
    assert "- mini: Apache-2.0" in licence


def test_record_is_submitted_once(clone: Path, new: Path, tmp_path: Path) -> None:
    assert submit(tmp_path, new, "--board", clone).exit_code == 0
    again = submit(tmp_path, new, "--board", clone)
    assert "already has these records. Nothing to submit" in str(again.exception)
    copy = copy_records(f"{SUBMITTED}-seed1.*", tmp_path / "copy")
    copy_records("mini.*", copy)
    with_others = submit(tmp_path, copy, "--board", clone)
    assert with_others.exit_code == 1
    assert with_others.output.count("is this record. It is published already") == 2
    assert len(list((clone / RESULTS).glob("*/*.json"))) == 1


def test_second_evaluation_of_a_published_model_is_a_correction(
    clone: Path, new: Path, tmp_path: Path
) -> None:
    shutil.copytree(new, clone / RESULTS / "first")
    edit(new / f"{SUBMITTED}-seed1.json", lambda record: record.update(seconds=1.0))
    refused = submit(tmp_path, new, "--board", clone)
    assert refused.exit_code == 1
    assert "To correct it, replace its two files" in refused.output
    assert not (tmp_path / "submission").exists()
    # In the place of the published record it is accepted.
    published = propose(clone)
    shutil.copytree(new, clone / RESULTS / "first", dirs_exist_ok=True)
    result, comment = review(clone, propose(clone), tmp_path, published)
    assert result.exit_code == 0, result.output
    assert "Records: 1 added or changed, 0 removed" in comment
    assert f"`first/{SUBMITTED}-seed1.json`" in comment


def test_rerun_of_a_published_recipe_and_seed_conflicts(clone: Path, new: Path, tmp_path: Path) -> None:
    shutil.copytree(new, clone / RESULTS / "first")
    edit(new / f"{SUBMITTED}-seed1.json", lambda record: record["adapter"].update(digest="0" * 64))
    result = submit(tmp_path, new, "--board", clone)
    assert result.exit_code == 1
    assert re.search("cannot hold these records.*two records of one model", result.output)


def test_name_of_another_published_model_is_noted(clone: Path, new: Path, tmp_path: Path) -> None:
    shutil.copytree(new, clone / RESULTS / "first")

    def other_model(record: dict[str, Any]) -> None:
        record["adapter"]["digest"] = "0" * 64
        for recipe in (record["recipe"], record["adapter"]["manifest"]["recipe"]):
            recipe.update(name="other", digest="1" * 64)

    edit(new / f"{SUBMITTED}-seed1.json", other_model)
    result = submit(tmp_path, new, "--board", clone)
    assert result.exit_code == 0, result.output
    assert f"first/{SUBMITTED}-seed1.json is a published record of another model" in result.output
    assert "The same counts per item" in text_of(tmp_path)


def test_altered_rate_is_refused_and_nothing_is_written(clone: Path, new: Path, tmp_path: Path) -> None:
    task = "midalign_mini_slot_de"
    edit(
        new / f"{SUBMITTED}-seed1.json",
        lambda record: record["tasks"][task]["metrics"]["slot_f1"].update(value=0.9),
    )
    result = submit(tmp_path, new, "--board", clone)
    assert result.exit_code == 1
    assert re.search(f"FAIL  figures.*{task} says slot_f1 0.9", result.output)
    assert not (tmp_path / "submission").exists()
    assert git(clone, "status", "--porcelain") == ""


def test_items_of_another_name_are_refused(new: Path, tmp_path: Path) -> None:
    items = new / f"{SUBMITTED}-seed1.items.jsonl.zst"
    items.rename(new / "items.zst")
    edit(new / f"{SUBMITTED}-seed1.json", lambda record: record["items"].update(file="items.zst"))
    result = submit(tmp_path, new)
    assert result.exit_code == 1
    assert f"its items are in items.zst, expected {items.name}" in result.output


def test_partial_record_is_marked(clone: Path, new: Path, tmp_path: Path) -> None:
    file = new / f"{SUBMITTED}-seed1.json"
    kept = [f"midalign_mini_slot_{code}" for code in ("en", "de")]
    edit(file, lambda record: record.update(tasks={name: record["tasks"][name] for name in kept}))
    edit_items(file, lambda lines: [line for line in lines if line["task"] in kept])
    result = submit(tmp_path, new, "--board", clone)
    assert result.exit_code == 0, result.output
    text = text_of(tmp_path)
    assert "(2, **partial**, 8 missing)" in text
    assert "--languages de,en" in text or "--languages en,de" in text
    assert "| supervised (1) | aligned (1) |" in text


def test_shard_is_refused(new: Path, tmp_path: Path) -> None:
    shard = {"number": 1, "of": 2, "run": "0" * 64}
    edit(new / f"{SUBMITTED}-seed1.json", lambda record: record.update(shard=shard))
    result = submit(tmp_path, new)
    assert result.exit_code == 1
    assert "Join the shards first" in result.output


def test_two_records_of_one_name_are_refused(new: Path, tmp_path: Path) -> None:
    shutil.copytree(new, tmp_path / "more")
    result = submit(tmp_path, new, tmp_path / "more")
    assert "have the same name" in str(result.exception)


def test_folder_that_is_no_clone_is_refused(new: Path, tmp_path: Path) -> None:
    result = submit(tmp_path, new, "--board", tmp_path)
    assert "is not a clone of a board" in str(result.exception)


def test_without_a_clone_records_go_to_the_output_folder(new: Path, tmp_path: Path) -> None:
    result = submit(tmp_path, new)
    assert result.exit_code == 0, result.output
    assert "1 record: 1 pass, 0 fail" in result.output
    (folder,) = (path for path in (tmp_path / "submission").iterdir() if path.is_dir())
    assert {file.name for file in folder.iterdir()} == {file.name for file in new.iterdir()}
    assert f"cp -r {folder} CLONE/leaderboard/results/" in result.output
    assert "No baseline of the same base" in text_of(tmp_path)


HOSTILE = (
    "<img src=x onerror=alert(1)>|@team/all ![x](https://evil.example) GH-1 #2 `$(touch x)`\n## Injected"
)


def test_foreign_text_is_only_text(clone: Path, new: Path, tmp_path: Path) -> None:
    def hostile(record: dict[str, Any]) -> None:
        record["base"]["name"] = HOSTILE
        record["adapter"].update(name=HOSTILE, manifest=None)
        record.update(trained_on=HOSTILE, recipe={"name": HOSTILE, "digest": "`<img src=x>"})
        record["packages"]["lm-eval"] = HOSTILE

    edit(new / f"{SUBMITTED}-seed1.json", hostile)
    result = submit(tmp_path, new, "--board", clone)
    assert result.exit_code == 0, result.output
    text = text_of(tmp_path)
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert titles[:2] == ["Findings", "Records"]
    assert "Injected" not in titles
    for block in MARKDOWN.parse(text):
        assert block.type != "html_block"
        for token in block.children or []:
            assert token.type != "image"
            assert token.type != "html_inline" or token.content == "<!-- -->"
            assert token.type != "link_open" or "creativecommons.org" in token.attrs["href"]
            if token.type == "text":
                assert not re.search(r"@\w|\bGH-\d|#\d", token.content)
    # The command's name of an adapter is one word of a shell.
    command = next(line for line in text.splitlines() if line.startswith("midalign eval"))
    words = subprocess.run(
        ["bash", "-c", f'midalign() {{ printf "%s\\0" "$@"; }}; {command}'], check=True, capture_output=True
    ).stdout.split(b"\0")
    assert words[1:3] == [b"--base", HOSTILE.replace("\n", " ").encode()]
    assert not (Path.cwd() / "x").exists()


@pytest.mark.parametrize("length", [1500, 11_000])
def test_block_of_commands_runs_no_foreign_code(new: Path, tmp_path: Path, length: int) -> None:
    """A long name would lose its closing quote if it were truncated, and the next name would become code."""
    copy_records(f"{SUBMITTED}-seed2.*", new)
    for seed, name in ((1, "A" * length + " "), (2, "; touch PWNED #")):

        def rename(record: dict[str, Any], name: str = name) -> None:
            record["base"]["name"] = name
            record["adapter"]["manifest"] = None
            record.update(trained_on="x", recipe=None)

        edit(new / f"{SUBMITTED}-seed{seed}.json", rename)
    assert submit(tmp_path, new).exit_code == 0
    section = section_of(text_of(tmp_path), "Reproduce")
    block = section.partition("```bash\n")[2].partition("```")[0]
    assert block.count("midalign eval") == (2 if length < 2000 else 1)
    assert ("1 command is longer than 2,000 characters" in section) == (length > 2000)
    subprocess.run(["bash", "-c", f"midalign() {{ :; }}\n{block}"], check=True, cwd=tmp_path)
    assert not (tmp_path / "PWNED").exists()


def test_review_of_many_records_is_complete(tmp_path: Path) -> None:
    """The workflow truncates the comment. The file, which it uploads, has everything."""
    record = read_record(BOARD / "results" / f"{BASELINE}-seed1.json")
    files = {f"new/{'n' * 100}{number}.json": Path(f"/x/{number}.json") for number in range(400)}
    checks = [RecordCheck(file, record) for file in files.values()]
    change = BoardChange({}, files, (), ("setup.py",))
    text = comment_text(ChangeReview(change, checks, [], [], [], []))
    assert len(text) > 65_536
    assert all(f"`{name}`" in text for name in files)
    assert "other files change too: `setup.py`" in text


def test_messages_name_records_by_their_path_on_the_board(tmp_path: Path) -> None:
    files = {
        "m-1/a.json": tmp_path / "a.json",
        "m-1/ba.json": tmp_path / "ba.json",
        "m-1/c.json": Path("c.json"),
    }
    problems = [f"{tmp_path}/ba.json: wrong", "acc.json: wrong"]
    text = comment_text(
        ChangeReview(BoardChange({}, files), [RecordCheck(Path("x"))] * 3, problems, [], [], [])
    )
    assert [line for line in text.splitlines() if "wrong" in line] == [
        "- **fails**: m-1/ba.json: wrong",
        "- **fails**: acc.json: wrong",
    ]


def test_review_refuses_what_is_no_record(clone: Path, tmp_path: Path, monkeypatch) -> None:
    """Links are not followed, and neither deep folders, other files nor large ones are read."""
    folder = copy_records(f"{SUBMITTED}-seed*", clone / RESULTS / "new")
    secret = tmp_path / "secret.json"
    secret.write_text("a secret")
    (folder / "link.json").symlink_to(secret)
    (folder / "deep").mkdir()
    (folder / "deep" / "a.json").write_text("{}")
    (folder / "x.sh").write_text("touch x")
    (folder / f"{SUBMITTED}-seed2.json").chmod(0o755)
    (folder / f"{SUBMITTED}-seed3.json").unlink()
    (clone / "setup.py").write_text("")
    monkeypatch.setattr(revisions, "LARGEST_FILE", 20_000)
    result, comment = review(clone, propose(clone), tmp_path)
    assert result.exit_code == 1
    assert "**These records must not be merged yet.** Records: 0 added" in comment
    plain = comment.replace("\\", "")
    for problem in (
        "new/link.json is not a regular file (mode 120000)",
        "new/deep/a.json is not a file of a record",
        "new/x.sh is not a file of a record",
        f"new/{SUBMITTED}-seed2.json is not a regular file (mode 100755)",
        f"new/{SUBMITTED}-seed3.items.jsonl.zst belongs to no record",
    ):
        assert problem in plain
    assert re.search(rf"new/{SUBMITTED}-seed1.json has [\d,]+ bytes. The limit is 20,000", plain)
    assert "other files change too: `setup.py`" in comment
    assert "a secret" not in comment


@pytest.mark.parametrize(
    ("limit", "value", "problem"),
    [
        ("MOST_FILES", 3, "4 files of records change. The limit is 3"),
        ("LARGEST_CHANGE", 1000, r"bytes change. The limit is 1,000"),
    ],
)
def test_review_refuses_changes_that_are_too_large(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, problem: str
) -> None:
    copy_records(f"{SUBMITTED}-seed[12].*", clone / RESULTS / "new")
    monkeypatch.setattr(revisions, limit, value)
    result, comment = review(clone, propose(clone), tmp_path)
    assert result.exit_code == 1
    assert section_of(comment, "Findings").count(problem) == 1
    assert "Records: 0 added or changed" in comment


def test_review_refuses_items_that_would_fill_the_memory(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_records(f"{SUBMITTED}-seed1.*", clone / RESULTS / "new")
    monkeypatch.setattr(revisions, "LARGEST_ITEMS", 1000)
    bomb = zstandard.ZstdCompressor().compress(bytes(1001))
    (folder / f"{SUBMITTED}-seed1.items.jsonl.zst").write_bytes(bomb)
    result, comment = review(clone, propose(clone), tmp_path)
    assert result.exit_code == 1
    assert "its items have 1,001 bytes. The limit is 1,000" in comment


def test_review_fails_for_items_that_changed_alone(clone: Path, tmp_path: Path) -> None:
    items = clone / RESULTS / f"{BASELINE}-seed1.items.jsonl.zst"
    items.write_bytes(items.read_bytes() + b"\0")
    result, comment = review(clone, propose(clone), tmp_path)
    assert result.exit_code == 1
    assert re.search(f"fails.*schema.*{BASELINE}-seed1.items.jsonl.zst is not the file", comment)
    assert str(tmp_path) not in comment
    assert "/tmp" not in comment


def test_submission_must_not_change_the_log_of_verifications(clone: Path, new: Path, tmp_path: Path) -> None:
    shutil.copytree(new, clone / RESULTS / "new")
    (clone / RESULTS / "new" / LOG).write_text('{"sha256": "0", "verdict": "verified"}\n')
    result, comment = review(clone, propose(clone), tmp_path)
    assert result.exit_code == 1
    assert comment.startswith("**These records must not be merged yet.**")
    assert f"{RESULTS}/new/{LOG} changes: only maintainers may write it" in comment
    assert comment.index("## Findings") < comment.index("## Records")


def test_review_of_the_log_alone_says_who_may_change_it(clone: Path, tmp_path: Path) -> None:
    (clone / RESULTS / LOG).write_text('{"sha256": "0", "verdict": "verified"}\n')
    result, comment = review(clone, propose(clone), tmp_path)
    assert result.exit_code == 0, result.output
    assert comment.startswith("**The log of verifications changes. Only maintainers may change it.**")
    assert f"`{RESULTS}/{LOG}` changes" in section_of(comment, "Findings")


def test_review_lists_withdrawn_records(clone: Path, tmp_path: Path) -> None:
    for file in (clone / RESULTS).glob("mini.*"):
        file.unlink()
    result, comment = review(clone, propose(clone), tmp_path)
    assert result.exit_code == 0, result.output
    assert section_of(comment, "Withdrawn").strip() == "- `mini.json`"


def test_review_names_an_unknown_revision(clone: Path, tmp_path: Path) -> None:
    for revision in ("nowhere", "--output=x"):
        result, _ = review(clone, "HEAD", tmp_path, revision)
        assert f"{revision} is not a revision" in str(result.exception)
