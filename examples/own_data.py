"""Score a model on your own slot data: one JSON object per line.

python examples/own_data.py
"""

import json
from pathlib import Path

import midalign

rows = [
    {"language": "en", "utterance": "Wake me at six.", "slots": [{"slot": "time", "value": "six"}]},
    {"language": "de", "utterance": "Wecke mich um sechs.", "slots": [{"slot": "time", "value": "sechs"}]},
]
data = Path("example-alarms.jsonl")
data.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), "utf-8")

settings = midalign.EvalSettings(base="mini", tasks=(f"slot:{data}",), output=Path("example-alarms"))
for path in midalign.evaluate_models(settings):
    for name, result in midalign.load_record(path).tasks.items():
        print(name, result.metrics["slot_f1"].value)
