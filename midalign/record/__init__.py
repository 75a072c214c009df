"""The run record: a JSON file per evaluated model, and a compressed file with its counts per item.

Every pooled score, interval and paired test follows from these two files alone. `record.schema.json` in the
package is the JSON Schema of `Record`. scripts/write_schema.py writes it.
"""

from midalign.record.conditions import SHARDS, Conditions, conditions_of, shared_conditions, task_conditions
from midalign.record.files import (
    ITEMS_SUFFIX,
    SUFFIX,
    items_path,
    read_items,
    read_record,
    record_file_name,
    refuse_to_replace,
    write_record,
)
from midalign.record.item_counts import Items, nan_to_none, pack_items, scores_without_repeated
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
    format_score,
    record_schema,
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
    "format_score",
    "items_path",
    "nan_to_none",
    "pack_items",
    "read_items",
    "read_record",
    "record_file_name",
    "record_schema",
    "refuse_to_replace",
    "scores_without_repeated",
    "shared_conditions",
    "task_conditions",
    "write_record",
]
