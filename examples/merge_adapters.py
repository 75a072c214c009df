"""Merge a task adapter with an alignment adapter that was trained alone.

python examples/merge_adapters.py
"""

from pathlib import Path

import midalign

recipe = midalign.load_recipe(
    "mini",
    [
        "updates=5",
        "seeds=[1]",
        "arms={task: null, alignment: {task: false, copy_samples: 0}}",
        "output=example-modules",
    ],
)
task, alignment = midalign.train_recipe(recipe)
merged = midalign.merge_adapters([task, alignment], midalign.MergeWeights((1.0, 0.5)), Path("example-merged"))
print(f"rank {merged.rank}, {merged.modules} modules, deviation from the weighted sum {merged.error:.1e}")
