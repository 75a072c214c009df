"""The manifest of a merged adapter."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from midalign import adapter
from midalign.adapter import Manifest, Parent, RecipeRef
from midalign.languages import role_of
from midalign.merge.weights import path_part
from midalign.train.progress import TRAINING_LOG

NAME = 80
"""Characters of a merged adapter's name, which is part of file names."""


def merged_manifest(sources: Sequence[Path], how: str) -> Manifest | None:
    """Return the manifest of a merged adapter, or None if a parent has none.

    The first parent is the task adapter. Supervised languages are those of all parents that were trained on a
    task, and aligned languages those of all parents with alignment.
    """
    known = [adapter.read_manifest(folder) for folder in sources]
    parents = [manifest for manifest in known if manifest is not None]
    if len(parents) != len(sources):
        return None
    task, *others = parents

    # Roles of languages, from the parents that were trained on a task or aligned.
    with_task = [task]
    with_task += [
        parent for parent, folder in zip(others, sources[1:], strict=True) if _trained_on_task(parent, folder)
    ]
    with_alignment = [parent for parent in parents if parent.layer is not None]
    supervised = dict.fromkeys(code for parent in with_task for code in parent.supervised)
    aligned = dict.fromkeys(code for parent in with_alignment or [task] for code in parent.aligned)
    first = next(iter(with_alignment), task)

    # Training text and its overlap, from all parents. Unknown if it is unknown for one of them.
    overlap = dict.fromkeys(entry for parent in parents for entry in parent.overlap or [])
    dtypes = {parent.dtype for parent in parents if parent.dtype}
    texts = [parent.training_text for parent in parents]
    trained_on = dict.fromkeys(text for of_parent in texts for text in of_parent or [])
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
            "settings": None,
            "base_hub_id": next(filter(None, (parent.base_hub_id for parent in parents)), None),
            "base_licence": next(filter(None, (parent.base_licence for parent in parents)), None),
            "tokenizer_digest": next(filter(None, (parent.tokenizer_digest for parent in parents)), None),
            "dtype": ", ".join(sorted(dtypes)) if all(parent.dtype for parent in parents) else None,
            "trained_on": None if None in texts else list(trained_on),
            "overlap": list(overlap) if all(parent.overlap is not None for parent in parents) else None,
            "parents": [
                Parent(
                    name=parent.name,
                    digest=adapter.adapter_digest(folder),
                    settings=parent.settings,
                    parents=parent.parents,
                )
                for parent, folder in zip(parents, sources, strict=True)
            ],
        }
    )


def _trained_on_task(manifest: Manifest, folder: Path) -> bool:
    """Return whether any update of the adapter's training had task samples.

    The last losses do not tell if alignment alternates with the task. The log beside the adapter does.
    """
    if "task" in manifest.training or manifest.parents:
        return True
    log = folder / TRAINING_LOG
    lines = log.read_text("utf-8").splitlines() if log.is_file() else []
    return any("task" in json.loads(line).get("losses", {}) for line in lines)


def shorten_name(name: str) -> str:
    """Return a name that fits into file names. Long names are cut and end in a digest of the whole name."""
    return name if len(name) <= NAME else f"{name[: NAME - 9]}-{text_digest(name)[:8]}"


def text_digest(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()
