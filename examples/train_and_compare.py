"""Train a baseline and an aligned adapter, score both, and compare them with intervals.

python examples/train_and_compare.py
"""

from pathlib import Path

import midalign

# Any key of a recipe can be changed, as on the command line. A real run takes hundreds of updates.
recipe = midalign.load_recipe("mini", ["updates=10", "seeds=[1]", "output=example-run"])
adapters = midalign.train_recipe(recipe)

settings = midalign.EvalSettings(
    base=recipe.base,
    tasks=(recipe.task,),
    adapters=tuple(adapters),
    adapters_only=True,
    split="validation",
    limit=3,
    output=Path("example-run/results"),
)
midalign.evaluate_models(settings)

for section in midalign.compare_records(settings.output):
    for difference in section.differences:
        for languages, change in difference.means["slot_f1"].items():
            interval = f"[{change.low:+.3f}, {change.high:+.3f}]"
            print(f"{difference.model}, {languages}: {change.value:+.3f} {interval}")

midalign.build_board(settings.output, Path("example-run/board"))
print("tables and plots: example-run/board/README.md")
