"""Find the layer where languages meet: retrieval of translations per layer, as a plot.

python examples/analyse_layers.py
"""

from pathlib import Path

import midalign

# One text file per language, parallel by line. Real analyses take 500 sentences or more: sentences="ntrex".
texts = Path("example-sentences")
texts.mkdir(exist_ok=True)
numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
zahlen = ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn"]
english = [f"Wake me at {n}." for n in numbers] + [f"I want {n} tickets." for n in numbers]
german = [f"Wecke mich um {z}." for z in zahlen] + [f"Ich möchte {z} Karten." for z in zahlen]
(texts / "en.txt").write_text("\n".join(english) + "\n", "utf-8")
(texts / "de.txt").write_text("\n".join(german) + "\n", "utf-8")

analysis = midalign.analyze_layers("mini", sentences=str(texts), output=Path("example-analysis"))
for layer in analysis.layers:
    print(f"after block {layer.layer}: {100 * layer.all_pairs['margin']:.1f}% retrieved")
print(f"In a recipe: align.layer={analysis.best_layer}")
print(*analysis.files, sep="\n")
