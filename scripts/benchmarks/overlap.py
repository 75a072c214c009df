"""What the overlap guard costs and finds over all data sets: seconds, peak memory, counts, false alarms.

usage: python scripts/benchmarks/overlap.py

Takes what is learned from under every name against every test split, from the local cache. Pairs of data sets
that have nothing to do with each other say how often the rule finds something falsely.
"""

import resource
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from midalign import guard  # noqa: E402
from midalign.data.overlap import find_overlaps  # noqa: E402

TRAINING = ("massive", "alma", "tatoeba", "ntrex", "wmt23", "mini", "midalign_json_uner")
TESTS = (
    "midalign_slot",
    "midalign_mt_ntrex",
    "midalign_mt_wmt23",
    "midalign_json_uner",
    "midalign_mini_slot",
    "midalign_mini_mt",
)


def main() -> None:
    """Measure and print."""
    start, processor = time.perf_counter(), time.process_time()
    learned = [text for name in TRAINING for text in guard.training(name)]
    scored = guard.scored(TESTS, "test")
    found = find_overlaps(learned, scored)
    repeated = guard.repetitions(learned, scored)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gigabytes = peak / 1e6 if sys.platform != "darwin" else peak / 1e9  # kilobytes, on macOS bytes
    sizes = [sum(len(text.sentences) for text in texts) for texts in (learned, scored)]
    print(f"{sizes[0]:,} sentences learned from, {sizes[1]:,} scored")
    print(f"{seconds:.1f} s, {processor:.1f} s of processor time, {gigabytes:.2f} GB at most")
    tested: dict[str, int] = defaultdict(int)
    for text in scored:
        tested[text.dataset] += len(text.sentences)
    print("\nlearned  scored   texts    exact  folded  of them short  near  count")
    for training in TRAINING:
        for test in tested:
            own = [one for one in found if (one.training, one.test) == (training, test)]
            counts = [
                sum(getattr(one, kind) for one in own)
                for kind in ("exact", "folded", "short", "near", "found")
            ]
            if any(one.training == training for one in found) and (own or training != test):
                widths = (8, 7, 14, 5, 6)
                cells = " ".join(f"{count:{width},}" for count, width in zip(counts, widths, strict=True))
                print(f"{training:8} {test:8} {tested[test]:7,}{cells}")
    print("\nwithin one data set, word for word in the training split of the language:")
    for dataset in dict.fromkeys(text.dataset for text, _ in repeated):
        own_counts = [(len(text.sentences), count) for text, count in repeated if text.dataset == dataset]
        print(f"{dataset}: {sum(c for _, c in own_counts):,} of {sum(n for n, _ in own_counts):,}")
    print("\ntexts that are equal to a training text after folding only:")
    for one in found:
        if one.folded:
            print(f"{one.training} in {one.test} {one.language}: {one.folded:,} (exact {one.exact:,})")
    print("\nwithin one data set, training split against test split of the same language:")
    for text in scored:
        own_texts = [one for one in learned if (one.dataset, one.language) == (text.dataset, text.language)]
        renamed = [replace(one, dataset="training") for one in own_texts if one.split == "train"]
        for one in find_overlaps(renamed, [text]):
            if one.folded:
                print(f"{text.dataset} {text.language}: {one.folded:,} folded, {one.exact:,} exact")


if __name__ == "__main__":
    main()
