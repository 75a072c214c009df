"""The workflows that review records in pull requests, run with their own commands on a local clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from midalign import harness

ROOT = Path(__file__).parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
RECORD = "mini-baseline-seed1"


def load_workflow(name: str) -> dict[Any, Any]:
    workflow: dict[Any, Any] = yaml.safe_load((WORKFLOWS / name).read_text("utf-8"))
    return workflow


def steps_of(name: str) -> list[dict[str, Any]]:
    (job,) = load_workflow(name)["jobs"].values()
    steps: list[dict[str, Any]] = job["steps"]
    return steps


def run_step(step: dict[str, Any], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step's commands as GitHub does. Every variable that the step sets must be given."""
    assert set(step.get("env", {})) <= set(environment)
    return subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=folder,
        env=os.environ | environment,
        check=False,
        capture_output=True,
        text=True,
    )


def write_command(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A shallow checkout of the base branch, whose remote has pull request 7 with one more record."""
    author = tmp_path / "author"
    results = author / "leaderboard" / "results"
    results.mkdir(parents=True)
    published = ROOT / "leaderboard" / "results"
    for file in published.glob("mini.*"):
        shutil.copy(file, results)
    git(tmp_path, "init", "-q", "-b", "main", "author")
    git(author, "add", ".")
    git(author, "commit", "-q", "-m", "Publish a record")
    git(author, "switch", "-q", "-c", "submission")
    (results / "new").mkdir()
    for file in published.glob(f"{RECORD}.*"):
        shutil.copy(file, results / "new")
    (author / "midalign").mkdir()
    (author / "midalign" / "__init__.py").write_text("raise SystemExit('code of the pull request')\n")
    git(author, "add", ".")
    git(author, "commit", "-q", "-m", "Submit a record")
    # The event names the base branch as it is now. Until it is merged, the branch gets another record.
    git(author, "switch", "-q", "main")
    git(tmp_path, "clone", "-q", "--bare", "author", "origin.git")
    git(tmp_path, "clone", "-q", "--depth=1", "--branch=main", f"file://{tmp_path}/origin.git", "checkout")
    for file in published.glob("mini-baseline-seed2.*"):
        shutil.copy(file, results)
    git(author, "add", ".")
    git(author, "commit", "-q", "-m", "Publish another record")
    git(author, "switch", "-q", "-c", "merged")
    git(author, "merge", "-q", "--no-ff", "-m", "Merge", "submission")
    git(author, "push", "-q", "../origin.git", "main", "merged:refs/pull/7/merge")
    return tmp_path / "checkout"


def review_steps() -> list[dict[str, Any]]:
    return [step for step in steps_of("records.yml") if step.get("run", "make setup") != "make setup"]


@pytest.mark.slow
@pytest.mark.parametrize("tampered", [False, True])
def test_review_reads_a_pull_request_and_runs_none_of_its_code(checkout: Path, tampered: bool) -> None:
    fetch, review = review_steps()
    write_command(checkout / ".venv" / "bin" / "midalign", f'exec "{sys.executable}" -m midalign "$@"')
    if tampered:
        author = checkout.parent / "author"
        file = author / "leaderboard" / "results" / "new" / f"{RECORD}.json"
        file.write_text(file.read_text().replace('"seed": 1,', '"seed": 9,', 1))
        git(author, "commit", "-q", "-a", "--amend", "-m", "Merge")
        git(author, "push", "-q", "--force", "../origin.git", "HEAD:refs/pull/7/merge")
    assert run_step(fetch, checkout, NUMBER="7").returncode == 0
    result = run_step(review, checkout)
    upload = steps_of("records.yml")[-1]
    comment = (checkout / upload["with"]["path"]).read_text()
    assert result.returncode == int(tampered), result.stderr
    verdict = "These records must not be merged yet" if tampered else "All checks pass"
    assert comment.startswith(f"**{verdict}.** Records: 1 added or changed, 0 removed.")
    assert f"`new/{RECORD}.json`" in comment
    assert ("the manifest says 1" in comment) == tampered
    assert ("### `midalign_mini_slot`" in comment) != tampered
    assert not (checkout / "midalign").exists()


def test_comment_goes_to_the_open_pull_request_of_the_reviewed_commit(tmp_path: Path) -> None:
    """An artifact with a number, a branch that is a command and another commit have no effect."""
    _, post = steps_of("records-comment.yml")
    (tmp_path / "review").mkdir()
    review = tmp_path / "review" / "review.md"
    review.write_text("All checks pass.\n```bash\n" + "x" * 70_000)
    (tmp_path / "review" / "number").write_text("1")
    write_command(
        tmp_path / "bin" / "gh",
        'printf "%s\\n" "$@" >> calls.txt\n'
        'case "$*" in\n'
        "*pulls/7/files*) cat changed.txt;;\n"
        'api*) printf "aaa 5\\nccc 7\\nccc 8\\n";;\n'
        "*) cp comment.md posted.md;;\n"
        "esac",
    )
    values = {
        "GH_TOKEN": "token",
        "GITHUB_REPOSITORY": "owner/board",
        "OWNER": "author",
        "BRANCH": "$(touch x);touch$IFS'y'",
        "RUN": "https://github.com/owner/board/actions/runs/1",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    (tmp_path / "changed.txt").write_text("leaderboard/results/a.json\ndocs/.github/x\n")
    done = run_step(post, tmp_path, COMMIT="ccc", **values)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls.txt").read_text().splitlines()
    assert f"head=author:{values['BRANCH']}" in calls
    at = calls.index("comment")
    assert calls[at + 1 : at + 4] == ["7", "--repo", "owner/board"]
    posted = (tmp_path / "posted.md").read_text()
    assert len(posted) < 65_536
    assert posted.startswith("All checks pass.")
    assert posted.count("```") == 2
    assert "Truncated. The artifact" in posted
    assert posted.endswith(f"Commit ccc, [run]({values['RUN']})\n")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()

    # A pull request that changes workflows may have written the text itself.
    review.write_text("All checks pass.")
    (tmp_path / "changed.txt").write_text("a\n.github/workflows/records.yml\n" + "z\n" * 100_000)
    assert run_step(post, tmp_path, COMMIT="ccc", **values).returncode == 0
    posted = (tmp_path / "posted.md").read_text()
    assert posted.startswith("**This pull request changes workflows, so its review may be forged.**\n\nAll")
    assert "Truncated" not in posted

    # Without an open pull request, or with a link in place of the text, nothing is posted.
    (tmp_path / "posted.md").unlink()
    assert run_step(post, tmp_path, COMMIT="bbb", **values).returncode == 0
    review.unlink()
    review.symlink_to("/etc/hostname")
    assert run_step(post, tmp_path, COMMIT="ccc", **values).returncode == 1
    assert not (tmp_path / "posted.md").exists()


def test_untrusted_workflow_has_no_secret_and_installs_the_base_branch() -> None:
    workflow = load_workflow("records.yml")
    text = (WORKFLOWS / "records.yml").read_text("utf-8")
    assert "secrets." not in text
    assert list(workflow[True]) == ["pull_request"]  # YAML 1.1 reads `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    assert workflow[True]["pull_request"]["paths"] == ["leaderboard/results/**"]
    (checkout,) = (step for step in steps_of("records.yml") if "checkout" in step.get("uses", ""))
    assert checkout["with"] == {
        "ref": "${{ github.event.pull_request.base.sha }}",
        "persist-credentials": False,
    }


def test_privileged_workflow_follows_the_review_and_checks_nothing_out() -> None:
    workflow, reviewed = load_workflow("records-comment.yml"), load_workflow("records.yml")
    assert workflow[True] == {"workflow_run": {"workflows": [reviewed["name"]], "types": ["completed"]}}
    (job,) = workflow["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    # A cancelled review has no artifact.
    assert "event == 'pull_request'" in job["if"]
    assert "conclusion != 'cancelled'" in job["if"]
    download, post = job["steps"]
    assert download["uses"].startswith("actions/download-artifact@")
    assert download["with"]["name"] == steps_of("records.yml")[-1]["with"]["name"]
    assert "${{" not in post["run"]  # an expression would paste a foreign branch's name into the script


def test_issue_form_offers_task_groups_that_exist() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "score_my_model.yml").read_text("utf-8"))
    (tasks,) = (field for field in form["body"] if field.get("id") == "tasks")
    groups = [option["label"] for option in tasks["attributes"]["options"]]
    assert groups
    for group in groups:
        assert len(harness.expand([group])) > 1, group
