"""Write midalign/metrics/labels.tsv: the identifier's labels of the reference translations of each language.

usage: python scripts/calibrate_identifier.py        needs NTREX-128 and WMT23 in the cache, a minute
"""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from midalign.data import ntrex, wmt23  # noqa: E402
from midalign.data.segments import sides  # noqa: E402
from midalign.languages import language, languages  # noqa: E402
from midalign.metrics.identify import label_of  # noqa: E402

TABLE = ROOT / "midalign" / "metrics" / "labels.tsv"
EVERY = 4
"""Every fourth reference is read, so that the others can test the table."""
LEAST = 0.01
"""Share of a language's texts from which on a label counts as the language."""
ENGLISH = "en"
"""A label that no other language gets, because answers in English are the most frequent error."""


def directions() -> Iterator[tuple[str, str]]:
    """Yield a data set and a direction for every target language; NTREX goes first."""
    seen = set[str]()
    for name, dataset in (("ntrex", ntrex), ("wmt23", wmt23)):
        for direction in dataset.directions():
            _, target = sides(direction)
            if target not in seen and (name, target) != ("ntrex", ENGLISH):
                seen.add(target)
                yield name, direction


def labels(code: str, references: list[str]) -> list[str]:
    """Return the labels of references and of their first two thirds, the most frequent first."""
    found = Counter(label_of(text)[0] for one in references for text in (one, two_thirds(one)))
    if language(code).identifier != ENGLISH:
        del found[ENGLISH]
    least = LEAST * found.total()
    return [label for label, count in found.most_common() if count >= least]


def two_thirds(text: str) -> str:
    """Return the beginning of a text, like the answer of a model that stops too early."""
    words = text.split()
    if len(words) > 3:
        return " ".join(words[: round(2 * len(words) / 3)])
    return text[: max(1, round(2 * len(text) / 3))]


def main() -> None:
    """Write the table, in the order of languages.tsv."""
    rows = {}
    for name, direction in directions():
        target = sides(direction)[1]
        references = [one.target for one in {"ntrex": ntrex, "wmt23": wmt23}[name].read(direction, "test")]
        rows[target] = " ".join(labels(target, references[::EVERY]))
    lines = [f"{code}\t{rows[code]}\n" for code in languages() if code in rows]
    TABLE.write_text("code\tlabels\n" + "".join(lines), "utf-8")
    print(f"{len(lines)} languages")


if __name__ == "__main__":
    main()
