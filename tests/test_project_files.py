"""Files for maintainers say the same as pyproject.toml, and call commands that exist."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import midalign

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_citation_has_the_version_licence_and_authors_of_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == midalign.__version__
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in PROJECT["authors"]
    ]


@pytest.mark.parametrize(
    "path",
    [
        *(path for path in WORKFLOWS if path.name != "records-comment.yml"),  # it runs nothing of the project
        ROOT / "CONTRIBUTING.md",
        ROOT / ".ci" / "run",
    ],
    ids=lambda p: p.name,
)
def test_make_commands_have_a_target(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    commands = re.findall(r"^(?:.*[:;] +)?make ([^#\n]+)", path.read_text("utf-8"), re.MULTILINE)
    used = [word for words in commands for word in words.split() if re.fullmatch(r"[a-z][a-z-]*", word)]
    assert used
    assert set(used) <= set(targets)


def test_workflows_test_every_python_of_the_classifiers() -> None:
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))["jobs"]["test"]
    classifiers = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert tests["strategy"]["matrix"]["python"] == classifiers
    assert PROJECT["requires-python"] == f">={classifiers[0]}"


def test_only_jobs_that_publish_or_comment_may_write() -> None:
    writing = {
        "publish": {"id-token": "write"},
        "comment": {"actions": "read", "pull-requests": "write"},
    }
    for path in WORKFLOWS:
        workflow = yaml.safe_load(path.read_text("utf-8"))
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            assert job.get("permissions", {}) == writing.get(name, {})


def test_changelog_has_the_sections_of_keep_a_changelog() -> None:
    headings = re.findall(r"^(##+) (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == ("##", "[Unreleased]")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for depth, text in headings:
        assert text in kinds if depth == "###" else re.fullmatch(r"\[(Unreleased|\d+\.\d+\.\d+)\].*", text)
