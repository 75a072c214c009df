"""Publish a board on the Hugging Face hub: a static Space, and a data set with its records."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from midalign.errors import MidalignError
from midalign.hub_errors import explain_hub_errors
from midalign.leaderboard.publish import SITE_FILES, UploadFolder, check_is_board, plan_folder
from midalign.leaderboard.site import RECORDS, SCORES, SUMS, TITLE, VERSIONS, folder_sums

RECORDS_LICENCE_ID = "cc-by-4.0"
"""Licence of the records, as the hub spells it."""
DATA_SET_TEMPLATE = (".gitattributes", "README.md")
SPACE_TEMPLATE = (*DATA_SET_TEMPLATE, "index.html", "style.css")
"""Files that the hub puts into a new repository."""


@dataclass
class HubTarget:
    """A static Space with the page, and a data set repository of the same name with the records."""

    repository: str
    """`NAMESPACE/NAME`."""
    _heads: dict[str, str | None] = field(default_factory=dict, init=False)
    """Commit of each repository when it was read, by type. None for a new one."""
    _records: list[str] = field(default_factory=list, init=False)
    """Paths of the published data set."""

    @property
    def address(self) -> str:
        """Address of the Space."""
        return self._address("space")

    def list_files(self, scratch: Path) -> list[str]:
        """Return the paths of the Space, none for a new one."""
        self._heads["space"], site = self._read("space")
        self._heads["dataset"], self._records = self._read("dataset")
        check_is_board(self._address("space"), site, SITE_FILES, SPACE_TEMPLATE)
        check_is_board(self._address("dataset"), self._records, (SCORES, SUMS), DATA_SET_TEMPLATE)
        return site

    def plan_uploads(self, site: Path, published: list[str]) -> list[UploadFolder]:
        """Return the data set, written next to the site, and the site with the configuration of a Space."""
        records = site.with_name("data-set")
        write_data_set(site, records, self.address)
        configure_space(site, self.repository)
        return [
            plan_folder(self._address("dataset"), records, self._records),
            plan_folder(self.address, site, published),
        ]

    def upload(self, uploads: Sequence[UploadFolder], message: str) -> list[str]:
        """Commit the data set, then the Space, each in one commit. Repositories are created if missing."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

        if get_token() is None:
            raise MidalignError(
                "Not logged in to the Hugging Face hub, so nothing was published. Log in: hf auth login, or "
                "set HF_TOKEN to a token that may write"
            )
        hub, addresses = HfApi(), []
        for kind, upload in zip(("dataset", "space"), uploads, strict=True):
            with explain_hub_errors(upload.address):
                sdk = "static" if kind == "space" else None
                hub.create_repo(self.repository, repo_type=kind, space_sdk=sdk, exist_ok=True)
                # One commit, so that readers never see half a board or half a version.
                hub.create_commit(
                    self.repository,
                    [
                        *(CommitOperationAdd(path, upload.folder / path) for path in upload.sizes),
                        *(CommitOperationDelete(path) for path in upload.removed),
                    ],
                    commit_message=message,
                    repo_type=kind,
                    parent_commit=self._heads[kind],
                )
            addresses.append(upload.address)
        return addresses

    def _read(self, kind: str) -> tuple[str | None, list[str]]:
        """Return commit and paths of a repository, or None and no paths if there is none."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError

        hub = HfApi()
        with explain_hub_errors(self._address(kind)):
            try:
                head = hub.repo_info(self.repository, repo_type=kind).sha
                return head, hub.list_repo_files(self.repository, repo_type=kind, revision=head)
            except RepositoryNotFoundError:
                return None, []

    def _address(self, kind: str) -> str:
        from huggingface_hub import HfApi

        return f"{HfApi().endpoint}/{kind}s/{self.repository}"


def configure_space(site: Path, data_set: str) -> None:
    """Write the configuration of a static Space into the README.md of a site, and its new digest."""
    from huggingface_hub import SpaceCardData

    card = SpaceCardData(
        title=TITLE,
        sdk="static",
        license=RECORDS_LICENCE_ID,
        datasets=[data_set],
        emoji="🌍",
        colorFrom="blue",
        colorTo="green",
    )
    readme = site / "README.md"
    readme.write_text(f"---\n{card.to_yaml()}\n---\n{readme.read_text('utf-8')}", "utf-8")
    (site / SUMS).write_text(folder_sums(site), "utf-8")


def write_data_set(site: Path, folder: Path, space: str) -> None:
    """Write the records of a published board as a data set with a card, whose viewer shows the scores."""
    from huggingface_hub import DatasetCardData

    shutil.copytree(site / RECORDS, folder / RECORDS)
    shutil.copyfile(site / SCORES, folder / SCORES)
    card = DatasetCardData(
        pretty_name=f"{TITLE}: records",
        license=RECORDS_LICENCE_ID,
        tags=["evaluation", "leaderboard", "multilingual", "midalign"],
        configs=[{"config_name": "scores", "data_files": SCORES, "default": True}],
    )
    text = f"""\
---
{card.to_yaml()}
---
# {TITLE}: records

The records behind [the board]({space}), written by midalign.

| files | content |
| --- | --- |
| `{SCORES}` | one row per record, task and metric |
| `{RECORDS}/**/NAME.json` | one record per evaluated model: scores, versions, digests and settings |
| `{RECORDS}/**/NAME.items.jsonl.zst` | counts per item, from which every score, interval and test follows |
| `{SUMS}` | digests: `sha256sum --check {SUMS}` |

Frozen, citable versions are in `{VERSIONS}/` of the board's repository.
"""
    (folder / "README.md").write_text(text, "utf-8")
    (folder / SUMS).write_text(folder_sums(folder), "utf-8")
