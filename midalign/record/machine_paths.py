"""Find paths of the evaluating machine in a record, which published records must not have."""

import re

from midalign.record.models import Record

_MACHINE_PATH = re.compile(r"(lm_eval:)?([/~\\]|[A-Za-z]:[/\\])")


def machine_paths(record: Record) -> list[str]:
    """Return the fields of a record that begin with a folder of this machine, as `field: value`.

    Looked at are the names of the base, and the task, pairs and training text of the adapter's manifest.
    """
    fields = [("base.name", record.base.name)]
    manifest = record.adapter.manifest if record.adapter else None
    if manifest:
        fields += [
            ("adapter.manifest.base", manifest.base),
            ("adapter.manifest.task", manifest.task),
            ("adapter.manifest.pairs", manifest.pairs or ""),
            *(("adapter.manifest.trained_on", text.source) for text in manifest.trained_on or ()),
        ]
    return [f"{field}: {value}" for field, value in fields if _MACHINE_PATH.match(value)]
