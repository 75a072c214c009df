"""Publish a board as a branch of a git repository, from which GitHub Pages serves it."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from midalign.errors import MidalignError
from midalign.leaderboard.publish import (
    SITE_FILES,
    UploadFolder,
    changed_meanwhile,
    check_is_board,
    plan_folder,
)
from midalign.leaderboard.site import REPLACED

BRANCH = "gh-pages"
_CREDENTIALS = re.compile(r"(?<=://)\S*@")
_MOVED = ("(fetch first)", "(non-fast-forward)")
"""Parts of what git prints if the branch has moved since it was read."""


@dataclass
class BranchTarget:
    """A branch that holds nothing but the published board, such as GitHub Pages serves."""

    repository: str
    """URL or path."""
    branch: str = BRANCH
    _git_dir: Path = field(default=Path(), init=False)
    _head: str = field(default="", init=False)
    """Commit of the branch when it was read. Empty for a new branch."""

    def __post_init__(self) -> None:
        if Path(self.repository).exists():
            self.repository = str(Path(self.repository).resolve())

    @property
    def address(self) -> str:
        """Branch and repository, without a password in its URL."""
        return f"branch {self.branch} of {_CREDENTIALS.sub('', self.repository)}"

    def list_files(self, scratch: Path) -> list[str]:
        """Fetch the branch's latest commit, and return its paths, none for a new branch."""
        self._git_dir = scratch / "git"
        reference = f"refs/heads/{self.branch}"
        self._git("init", "--quiet", "--bare", str(self._git_dir))
        if not self._git("ls-remote", "--", self.repository, reference):
            return []
        self._git("fetch", "--quiet", "--depth", "1", "--", self.repository, reference)
        self._head = self._git("rev-parse", "FETCH_HEAD").strip()
        paths = self._git("ls-tree", "-r", "-z", "--name-only", self._head).split("\0")[:-1]
        check_is_board(self.address, paths, SITE_FILES, ("CNAME", ".nojekyll"))
        return paths

    def plan_uploads(self, site: Path, published: list[str]) -> list[UploadFolder]:
        """Return the site with `.nojekyll`, which keeps GitHub from converting it."""
        (site / ".nojekyll").touch()
        return [plan_folder(self.address, site, published)]

    def upload(self, uploads: Sequence[UploadFolder], message: str) -> list[str]:
        """Commit the site on top of the branch, and push it. The push is never forced."""
        site = uploads[0].folder
        # 1. The new tree: the old one without the replaced folders, and the site.
        if self._head:
            self._git("read-tree", self._head)
            self._git("rm", "-rfq", "--cached", "--ignore-unmatch", "--", *REPLACED, work_tree=site)
        # Not `git add`: attributes of the user or the branch could rewrite files.
        paths = list(uploads[0].sizes)
        options = ("-w", "--no-filters", "--stdin-paths")
        blobs = self._git("hash-object", *options, work_tree=site, entered="\n".join(paths) + "\n").split()
        entries = [f"100644 {blob}\t{path}\0" for blob, path in zip(blobs, paths, strict=True)]
        self._git("update-index", "-z", "--index-info", entered="".join(entries))
        tree = self._git("write-tree").strip()
        if self._head and tree == self._git("rev-parse", f"{self._head}^{{tree}}").strip():
            return []
        # 2. The commit. A new branch begins with it.
        parent = ["-p", self._head] if self._head else []
        commit = self._git("commit-tree", tree, *parent, "-m", message).strip()
        # 3. The push fails if the branch has moved.
        self._git("push", "--quiet", "--", self.repository, f"{commit}:refs/heads/{self.branch}")
        return [self.address]

    def _git(self, *words: str, work_tree: Path | None = None, entered: str = "") -> str:
        """Run git in the temporary repository with `entered` as its input, and return its output."""
        environment = {**os.environ, "LC_ALL": "C", "GIT_DIR": str(self._git_dir)}
        environment |= {"GIT_INDEX_FILE": str(self._git_dir / "index")}
        environment.pop("GIT_WORK_TREE", None)
        if work_tree:
            environment["GIT_WORK_TREE"] = str(work_tree)
        try:
            done = subprocess.run(
                ["git", *words],
                cwd=work_tree,
                env=environment,
                input=entered,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
            )
        except FileNotFoundError as error:
            raise MidalignError("git was not found. Install it, or publish into a folder") from error
        if done.returncode == 0:
            return done.stdout
        message = _CREDENTIALS.sub("", done.stderr.strip())
        if words[0] == "push" and any(part in message for part in _MOVED):
            raise MidalignError(changed_meanwhile(self.address))
        raise MidalignError(
            f"git {words[0]} failed. {self.address} was not changed. git's message:\n{message or 'none'}"
        )
