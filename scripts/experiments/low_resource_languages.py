"""Choose the languages of recipe `massive-low` from an analysis of its base: leaderboard/sweeps/plan.md.

    python scripts/experiments/low_resource_languages.py [ANALYSIS]

Writes `low-resource.json` into the analysis: each language of resource class low with its retrieval, and its
half of the experiment. The committed analysis was made by

    midalign analyze BASE --count 200 --languages en,am,az,cy,hy,is,km,kn,ml,mn,my,nb,sq,sw,te,es,ru,zh_cn,de
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binom

from midalign.analyze.report import load_analysis
from midalign.files import write_atomically
from midalign.languages import language

ANALYSIS = Path(__file__).parents[2] / "leaderboard" / "analysis" / "gemma-3-270m-low"
LAYER = 11
"""Layer with the highest retrieval in Gemma 3 270M."""
MOST = 0.5
"""Retrieval of a candidate is below this share."""
SIGNIFICANCE = 0.01
"""Highest probability of as many hits by chance."""


def main(folder: Path = ANALYSIS) -> None:
    """Write and print the choice."""
    analysis = load_analysis(folder)
    by_language = analysis.retrieval_with_english(LAYER)
    retrieval = {code: share for code, share in by_language.items() if language(code).resource == "low"}
    candidates = sorted(
        code for code, share in retrieval.items() if share < MOST and not _is_chance(share, analysis.count)
    )
    order = np.random.default_rng(0).permutation(candidates).tolist()
    aligned = sorted(order[: len(order) // 2])
    half = {code: "aligned" if code in aligned else "unseen" for code in candidates}
    chosen = {
        code: {"retrieval": round(share, 4), "half": half.get(code)}
        for code, share in sorted(retrieval.items(), key=lambda entry: -entry[1])
    }
    content = {
        "model": analysis.model,
        "layer": LAYER,
        "sentences": analysis.count,
        "languages": chosen,
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(folder / "low-resource.json", text.encode())
    print(text, end="")


def _is_chance(share: float, sentences: int) -> bool:
    """Return True if guesses find as many translations with a probability above SIGNIFICANCE."""
    hits = round(share * sentences)
    return bool(binom.sf(hits - 1, sentences, 1 / sentences) > SIGNIFICANCE)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
