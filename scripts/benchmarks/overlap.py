"""What the overlap guard costs and finds over all data sets: seconds, peak memory, counts, false alarms.

usage: python scripts/benchmarks/overlap.py

Takes what is learned from under every name against every test split, from the local cache. Pairs of data sets
that have nothing to do with each other say how often the rule finds something falsely.
"""

import resource
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from midalign import guard  # noqa: E402
from midalign.data.overlap import overlaps  # noqa: E402

TRAINING = ("massive", "alma", "tatoeba", "ntrex", "wmt23", "mini")
TESTS = ("midalign_slot", "midalign_mt", "midalign_mini_slot", "midalign_mini_mt")


def main() -> None:
    """Measure and print."""
    start, processor = time.perf_counter(), time.process_time()
    learned = [text for name in TRAINING for text in guard.training(name)]
    scored = guard.scored(TESTS, "test")
    found = overlaps(learned, scored)
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
    print("\nlearned  scored   texts    exact  of them short  near  count")
    for training in TRAINING:
        for test in tested:
            own = [one for one in found if (one.training, one.test) == (training, test)]
            counts = [sum(getattr(one, kind) for one in own) for kind in ("exact", "short", "near", "found")]
            if any(one.training == training for one in found) and (own or training != test):
                exact, short, near, count = counts
                print(f"{training:8} {test:8} {tested[test]:7,} {exact:7,} {short:14,} {near:5,} {count:6,}")
    print("\nwithin one data set, word for word in the training split of the language:")
    for dataset in dict.fromkeys(text.dataset for text, _ in repeated):
        own_counts = [(len(text.sentences), count) for text, count in repeated if text.dataset == dataset]
        print(f"{dataset}: {sum(c for _, c in own_counts):,} of {sum(n for n, _ in own_counts):,}")


if __name__ == "__main__":
    main()
