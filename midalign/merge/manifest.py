"""The manifest of a merged adapter."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from midalign import adapter
from midalign.adapter import Manifest, Parent, RecipeRef
from midalign.languages import role_of
from midalign.merge.weights import path_part
from midalign.train.run import LOG

NAME = 80
"""Characters of a merged adapter's name, which files are called by."""


def merged_manifest(sources: Sequence[Path], how: str) -> Manifest | None:
    """What is known of the parents together; None where one of them has none.

    The first is the task's. Languages of others are supervised where these were trained on a task as well,
    and aligned where they were aligned.
    """
    known = [adapter.read_manifest(folder) for folder in sources]
    parents = [manifest for manifest in known if manifest is not None]
    if len(parents) != len(sources):
        return None
    task, *others = parents
    of_task = [
        task,
        *(one for one, folder in zip(others, sources[1:], strict=True) if _trained_on_task(one, folder)),
    ]
    of_alignment = [one for one in parents if one.layer is not None]
    supervised = dict.fromkeys(code for one in of_task for code in one.supervised)
    aligned = dict.fromkeys(code for one in of_alignment or [task] for code in one.aligned)
    first = next(iter(of_alignment), task)
    overlap = dict.fromkeys(one for parent in parents for one in parent.overlap or [])
    dtypes = {parent.dtype for parent in parents if parent.dtype}
    texts = [parent.training_text for parent in parents]
    trained_on = dict.fromkeys(text for known in texts for text in known or [])
    recipe = RecipeRef(
        name=task.recipe.name,
        digest=text_digest(" ".join(parent.recipe.digest for parent in parents)),
        baseline=task.recipe.baseline or task.recipe.digest,
    )
    return task.model_copy(
        update={
            "name": shorten_name("+".join(parent.name for parent in parents) + f"@{path_part(how)}"),
            "arm": f"merged {how}",
            "recipe": recipe,
            "supervised": list(supervised),
            "aligned": [code for code in aligned if code not in supervised],
            "unseen": [code for code in task.unseen if role_of(code, supervised, aligned) == "unseen"],
            "layer": first.layer,
            "pairs": first.pairs,
            "updates": sum(parent.updates for parent in parents),
            "tokens": sum(parent.tokens for parent in parents),
            "seconds": sum(parent.seconds for parent in parents),
            "packages": adapter.package_versions(),
            "training": {},
            "tokenizer_digest": next(filter(None, (one.tokenizer_digest for one in parents)), None),
            "dtype": ", ".join(sorted(dtypes)) if all(parent.dtype for parent in parents) else None,
            "trained_on": None if None in texts else list(trained_on),
            "overlap": list(overlap) if all(parent.overlap is not None for parent in parents) else None,
            "parents": [
                Parent(name=parent.name, digest=adapter.digest(folder))
                for parent, folder in zip(parents, sources, strict=True)
            ],
        }
    )


def _trained_on_task(manifest: Manifest, folder: Path) -> bool:
    """Return whether an update of the adapter's training had task samples.

    The last losses do not tell where alignment alternates with the task, so the log beside the adapter does.
    """
    if "task" in manifest.training or manifest.parents:
        return True
    log = folder / LOG
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    return any("task" in json.loads(line).get("losses", {}) for line in lines)


def shorten_name(name: str) -> str:
    """A name that files can have: of a long one the beginning, and a digest of all of it."""
    return name if len(name) <= NAME else f"{name[: NAME - 9]}-{text_digest(name)[:8]}"


def text_digest(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
