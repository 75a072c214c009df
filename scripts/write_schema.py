"""Write midalign/record.schema.json from the model: python scripts/write_schema.py"""

import json
from pathlib import Path

import midalign
from midalign import record

SCHEMA = Path(midalign.__file__).parent / "record.schema.json"

if __name__ == "__main__":
    SCHEMA.write_text(json.dumps(record.record_schema(), indent=1) + "\n", "utf-8")
