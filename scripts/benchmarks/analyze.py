"""Analysis of all pairs at once beside embedding each pair separately.

python scripts/benchmarks/analyze.py [BASE] [LANGUAGES] [SENTENCES]

NTREX's sentences, all layers and measures. All pairs of all languages ours, and in turn a few pairs
separately: both languages embedded and compared as if there were no others. Printed is the time a pair.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from midalign import bases
from midalign.align.trunk import depth
from midalign.analyze import pairs, states
from midalign.device import devices, fast_dtype
from midalign.evaluate import live, retrieval

SEPARATE = 8
"""Pairs that are embedded separately."""


def main(base: str, languages: int, sentences: int) -> None:
    """Measure and print."""
    every = states.parallel_sentences("ntrex", None, sentences)
    texts = dict(list(every.items())[:languages])
    dtype = fast_dtype()
    model, tokenizer = live.load(bases.resolve(base), {}, dtype)
    layers = range(depth(model) + 1)
    count = len(texts) * (len(texts) - 1) // 2

    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        store = states.embed_languages(base, None, texts, Path(scratch), devices(), lambda *_: None)
        embedded = time.perf_counter() - start
        start = time.perf_counter()
        pairs.compare_layers(store, layers, Path(scratch) / "pairs", devices(), lambda *_: None)
        compared = time.perf_counter() - start
    ours = (embedded + compared) / count

    separate = []
    for one, other in random.Random(0).sample([(a, b) for a in texts for b in texts if a < b], SEPARATE):
        start = time.perf_counter()
        both = [
            retrieval.pooled(model, tokenizer, texts[c], layers, states.batch_rows()) for c in (one, other)
        ]
        for layer in layers:
            pairs.measure_layer(torch.stack([side[layer] for side in both]))
        separate.append(time.perf_counter() - start)
    mean = sum(separate) / len(separate)
    print(
        f"{base}, {dtype}, {len(layers)} layers, {len(texts)} languages, {sentences} sentences, {count} pairs"
    )
    print(f"ours      {1000 * ours:8.1f} ms a pair: {embedded:.0f} s to embed, {compared:.0f} s to compare")
    print(f"separate  {1000 * mean:8.1f} ms a pair, {min(separate):.2f} to {max(separate):.2f} s")
    print(f"ratio     {mean / ours:8.1f}")


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    main(given.get(0, "mini"), int(given.get(1, 128)), int(given.get(2, 100)))
