"""Publish a board as a branch of a git repository, from which GitHub Pages serves it."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from midalign.errors import MidalignError
from midalign.leaderboard.publish import UploadFolder, check_ours
from midalign.leaderboard.site import FILES_PAGE, REPLACED

BRANCH = "gh-pages"
_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")
_MOVED = ("(fetch first)", "(non-fast-forward)", "cannot lock ref", "failed to update ref")
"""Parts of what git prints if the branch has moved since it was read."""


@dataclass
class BranchTarget:
    """A branch that holds nothing but the published board, such as GitHub Pages serves."""

    repository: str
    """URL or path."""
    branch: str = BRANCH
    front_matter: str = ""
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
        check_ours(self.address, paths, FILES_PAGE, ("CNAME", ".nojekyll"))
        return paths

    def plan_uploads(self, site: Path, published: list[str]) -> list[tuple[str, Path, list[str]]]:
        """Return the site with `.nojekyll`, which keeps GitHub from converting it."""
        (site / ".nojekyll").touch()
        return [(self.address, site, published)]

    def upload(self, uploads: Sequence[UploadFolder], message: str) -> list[str]:
        """Commit the site on top of the branch, and push it. The push is never forced."""
        site = uploads[0].folder
        # 1. The new tree: the old one without the replaced folders, and the site.
        if self._head:
            self._git("read-tree", self._head)
            self._git("rm", "-rfq", "--cached", "--ignore-unmatch", "--", *REPLACED, work_tree=site)
        self._git("add", "--force", "--ignore-removal", "--", ".", work_tree=site)
        tree = self._git("write-tree").strip()
        if self._head and tree == self._git("rev-parse", f"{self._head}^{{tree}}").strip():
            return []
        # 2. The commit. A new branch begins with it.
        parent = ["-p", self._head] if self._head else []
        commit = self._git("commit-tree", tree, *parent, "-m", message).strip()
        # 3. The push fails if the branch has moved.
        self._git("push", "--quiet", "--", self.repository, f"{commit}:refs/heads/{self.branch}")
        return [self.address]

    def _git(self, *words: str, work_tree: Path | None = None) -> str:
        """Run git in the temporary repository, and return what it prints."""
        environment = {**os.environ, "LC_ALL": "C", "GIT_DIR": str(self._git_dir)}
        environment |= {"GIT_INDEX_FILE": str(self._git_dir / "index")}
        environment.pop("GIT_WORK_TREE", None)
        if work_tree:
            environment["GIT_WORK_TREE"] = str(work_tree)
        # Files must arrive as they are, whatever the user's settings say.
        command = ["git", "-c", "core.autocrlf=false", "-c", "core.safecrlf=false", *words]
        try:
            done = subprocess.run(
                command,
                cwd=work_tree,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                check=False,
            )
        except FileNotFoundError as error:
            raise MidalignError("git was not found. Install it, or publish into a folder") from error
        if done.returncode == 0:
            return done.stdout
        said = done.stderr.strip()
        if words[0] == "push" and any(part in said for part in _MOVED):
            raise MidalignError(
                f"{self.address} has changed since it was read: somebody else has published. Nothing was "
                f"overwritten. Rerun the same command"
            )
        raise MidalignError(
            f"git {words[0]} failed, so {self.address} is as it was. git says:\n{said or 'nothing'}"
        )
