"""The run record: one JSON file per evaluated model, the counts per item in a compressed file beside it.

Every pooled score, interval and paired test follows from these two files alone. `record.schema.json`
in the package is the JSON Schema of `Record`; scripts/write_schema.py writes it.
"""

from midalign.record.conditions import SHARDS, Conditions, conditions_of, shared_conditions, task_conditions
from midalign.record.files import (
    ITEMS_SUFFIX,
    SUFFIX,
    file_name,
    read,
    read_items,
    refuse_to_replace,
    write,
    write_atomically,
)
from midalign.record.item_counts import Items, defined, pack, without_repeated
from midalign.record.models import (
    Adapter,
    Base,
    Comet,
    Engine,
    ItemsFile,
    Metric,
    Record,
    Retrieval,
    Roles,
    Sample,
    Shard,
    TaskResult,
    decimals,
    schema,
)

__all__ = [
    "ITEMS_SUFFIX",
    "SHARDS",
    "SUFFIX",
    "Adapter",
    "Base",
    "Comet",
    "Conditions",
    "Engine",
    "Items",
    "ItemsFile",
    "Metric",
    "Record",
    "Retrieval",
    "Roles",
    "Sample",
    "Shard",
    "TaskResult",
    "conditions_of",
    "decimals",
    "defined",
    "file_name",
    "pack",
    "read",
    "read_items",
    "refuse_to_replace",
    "schema",
    "shared_conditions",
    "task_conditions",
    "without_repeated",
    "write",
    "write_atomically",
]
