"""Upload adapters to the Hugging Face hub."""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from midalign import adapter
from midalign.adapter import Manifest
from midalign.errors import AdapterError, MidalignError, first_line
from midalign.files import is_local_path, without_folders
from midalign.hub_errors import explain_hub_errors
from midalign.model_card import CARD, EARLIER_CODE, HERE, folder_card

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterUpload:
    """The files of an adapter, or of a whole model, as they will be on the hub."""

    folder: Path
    repository: str
    files: Mapping[str, bytes | Path]
    """Contents by path in the repository, or the file itself where it is uploaded as it is."""

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        file = self.files[name]
        return file.stat().st_size if isinstance(file, Path) else len(file)


def plan_upload(folder: Path, namespace: str, card: str | None = None) -> AdapterUpload:
    """Return the files that an upload to `namespace/NAME` sends, without contacting the hub.

    The manifest has no folders of this machine there, and the card's code names the repository.

    Args:
        folder: an adapter of midalign-train or a merge of these.
        namespace: a user or an organisation of the hub.
        card: the card to upload instead of the folder's.

    Raises AdapterError without a manifest, and for a namespace that the hub does not allow.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    manifest = adapter.read_manifest(folder)
    if card is None:
        path = folder / CARD
        kept = path.read_text("utf-8") if path.is_file() and manifest else ""
        card = kept if kept and EARLIER_CODE not in kept else folder_card(folder)
    assert manifest is not None
    # A merge into the base has the name of the merged adapter, whose repository must not hold both.
    whole_merge = bool(manifest.parents) and not (folder / adapter.CONFIG).is_file()
    repository = f"{namespace}/{_repository_name(manifest.name)}{'-model' if whole_merge else ''}"
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise AdapterError(
            f"{repository!r} is not a valid repository name: {first_line(error)} "
            f"Give the name of a user or an organisation of the hub, or shorten the name in "
            f"{folder / adapter.MANIFEST}"
        ) from error
    _warn_of_paths(folder)
    files: dict[str, bytes | Path] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    files[CARD] = card.replace(HERE, f"adapter = {json.dumps(repository)}").encode()
    portable = _without_folders(manifest)
    if portable != manifest:
        files[adapter.MANIFEST] = (portable.model_dump_json(indent=1) + "\n").encode()
    return AdapterUpload(folder, repository, dict(sorted(files.items())))


def upload_adapter(upload: AdapterUpload, *, private: bool = False) -> str:
    """Upload an adapter and return its address on the hub.

    The token is that of `hf auth login` or $HF_TOKEN. `private` creates a private repository. Raises
    AdapterError with the hub's message, and if a private upload would go to a public repository.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub, name = HfApi(), upload.repository
    operations = [CommitOperationAdd(path, file) for path, file in upload.files.items()]
    try:
        with explain_hub_errors(f"{hub.endpoint}/{name}"):
            hub.create_repo(name, exist_ok=True, private=private or None)
            if private and not hub.model_info(name).private:
                raise AdapterError(
                    f"{name} exists and is public: nothing was uploaded. Make it private in its settings, or "
                    f"give another namespace"
                )
            message = f"{name.partition('/')[2]}, by midalign"
            hub.create_commit(name, operations, commit_message=message)
    except AdapterError:
        raise
    except MidalignError as error:
        raise AdapterError(
            f"{upload.folder} was not uploaded to {name}. The adapter is complete. {error}"
        ) from error
    return f"{hub.endpoint}/{name}"


def _repository_name(name: str) -> str:
    """Return an adapter's name in the characters that the hub allows, such as `a-b-1_0.5` for `a+b@1_0.5`."""
    allowed = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    return re.sub(r"([.-])[.-]+", r"\1", allowed).strip("-.")


def _without_folders(manifest: Manifest) -> Manifest:
    """Return the manifest without folders of this machine in the paths of data."""
    texts = manifest.trained_on
    return manifest.model_copy(
        update={
            "task": without_folders(manifest.task),
            "pairs": manifest.pairs and without_folders(manifest.pairs),
            "trained_on": texts
            and [text.model_copy(update={"source": without_folders(text.source)}) for text in texts],
            "overlap": manifest.overlap and [entry.portable() for entry in manifest.overlap],
        }
    )


def _warn_of_paths(folder: Path) -> None:
    """Warn of a path of this machine in `adapter_config.json`, as adapters of earlier versions have.

    Its value stays, since the digest of the adapter, which records name, depends on it.
    """
    config = folder / adapter.CONFIG
    base = json.loads(config.read_text("utf-8")).get("base_model_name_or_path") if config.is_file() else None
    if isinstance(base, str) and is_local_path(base):
        log.warning(
            "%s contains a path of this machine, which the upload publishes: %s. "
            "Records name the digest of this file, so it is not changed",
            *(config, base),
        )
