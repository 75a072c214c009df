"""Score a model in two languages. Each score is in the record with its standard error.

python examples/score_a_model.py
"""

from pathlib import Path

import midalign

settings = midalign.EvalSettings(
    base="mini",  # or a folder, or a hub id such as google/gemma-3-270m
    tasks=("midalign_mini_slot_en", "midalign_mini_slot_de"),
    limit=10,  # items per task
    output=Path("example-scores"),
)
for path in midalign.evaluate_models(settings):
    record = midalign.load_record(path)
    for name, result in record.tasks.items():
        score = result.metrics["slot_f1"]
        print(f"{record.name}  {name}  slot F1 {score.value} ± {score.stderr}, {score.n} items")
