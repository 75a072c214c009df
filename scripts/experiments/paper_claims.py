"""Write docs/results/paper.md: claims of Liu and Niehues (2025) beside the same comparison in our records.

    python scripts/experiments/paper_claims.py [--check]

With --check, nothing is written, and the exit status is 1 if the page is outdated.
"""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from midalign.analyze.report import correlate_scores, load_analysis
from midalign.leaderboard.compare import seed_change
from midalign.leaderboard.formatting import format_difference
from midalign.leaderboard.load import runs_of_file
from midalign.leaderboard.row_pairs import RowPair, select_pairs
from midalign.leaderboard.sections import language_sets
from midalign.leaderboard.statistics import (
    Estimate,
    Scores,
    bootstrap,
    estimate,
    mean_over_languages,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "results" / "paper.md"


@dataclass(frozen=True)
class Comparison:
    """Two arms of a folder of records, and what differs in the arms' names."""

    form: str
    """Words for the arm."""
    first: str
    second: str
    folder: str
    """Below `leaderboard/`."""

    @property
    def command(self) -> str:
        """The command that prints the comparison."""
        words = ["midalign", "compare", self.first, self.second, "--by", "role"]
        return shlex.join([*words, "--results", f"leaderboard/{self.folder}"])


@dataclass(frozen=True)
class Claim:
    """A claim of the paper."""

    text: str
    figure: str
    """The paper's figure in words."""
    gain: float | None = None
    """The same in points. None if it is not known."""
    languages: str | tuple[str, ...] = "aligned"
    """A role, or codes."""
    metric: str = "slot_f1"
    loss: bool = False
    """True if the claim is a loss."""
    comparisons: tuple[Comparison, ...] = ()


PAPER = Comparison("published form", "paper", "baseline", "results/companions")
DEFAULT = Comparison("preset `default`", "default", "baseline", "results/companions")
IN_DOMAIN = Comparison("preset `default`, pairs of MASSIVE", "aligned-massive", "baseline", "results")
TATOEBA = Comparison("preset `default`, pairs of Tatoeba", "aligned-tatoeba", "baseline", "results")
MERGED = (
    Comparison("weights 1 and 1", "merged 1:1", "baseline", "results/companions"),
    Comparison("weights 1 and 0.25, best of three", "merged 1:0.25", "baseline", "sweeps/gemma/results"),
)
TRANSLATION = Comparison("preset `default`", "aligned", "baseline", "results/alma-gemma")
JSON = Comparison("preset `default`", "aligned", "baseline", "results/uner-gemma")
LOW, HIGH = ("cy", "sw"), ("de", "hi", "tr")
LOWEST, MIDDLE, TOP = (
    Comparison(f"after block {block} of 8", f"layer={layer}", "baseline", "sweeps/layer/results")
    for block, layer in ((2, "0.2"), (4, "middle"), (7, "0.9"))
)
CLAIMS = (
    Claim("Slot F1: aligned languages gain", "51.7 → 55.5", 3.8, comparisons=(PAPER, DEFAULT)),
    Claim(
        "Slot F1: supervised languages gain a little",
        "76.6 → 77.0",
        0.4,
        "supervised",
        comparisons=(PAPER, DEFAULT),
    ),
    Claim("Slot F1: unseen languages gain a little", "+0.4", 0.4, "unseen", comparisons=(PAPER, DEFAULT)),
    Claim("Slot F1: low-resource languages gain", "+3.8", 3.8, LOW, comparisons=(PAPER, DEFAULT)),
    Claim("Slot F1: high-resource languages gain a little", "+0.7", 0.7, HIGH, comparisons=(PAPER, DEFAULT)),
    Claim(
        "Slot F1: pairs of the domain and of another one gain",
        "retrieval 77.7, 71.9",
        comparisons=(IN_DOMAIN, TATOEBA),
    ),
    Claim("Slot F1: alignment of the lowest layers hurts", "a plot", loss=True, comparisons=(LOWEST,)),
    Claim("Slot F1: alignment of middle and top layers gains", "a plot", comparisons=(MIDDLE, TOP)),
    Claim("Slot F1: merging a separate alignment adapter gains", "+1.1", 1.1, comparisons=MERGED),
    Claim(
        "BLEU: translation of aligned languages gains", "+0.5", 0.5, metric="bleu", comparisons=(TRANSLATION,)
    ),
    Claim("JSON, span F1: aligned languages gain", "+1.0", 1.0, metric="span_f1", comparisons=(JSON,)),
    Claim(
        "JSON, span F1: supervised languages lose",
        "−1.0",
        -1.0,
        "supervised",
        metric="span_f1",
        loss=True,
        comparisons=(JSON,),
    ),
)

CORRELATED = ("baseline", "aligned-tatoeba", "aligned-massive")
"""Arms of `leaderboard/results/massive-gemma-*-seed1.json`, evaluated in all languages of MASSIVE."""


HEAD = """\
# The paper's claims

Liu and Niehues (ACL 2025, arXiv 2502.14830) trained Llama 3 8B and Qwen2.5 7B. Our records come from models
that are far smaller: the bundled base with 6 million parameters, and Gemma 3 270M, dequantised from Q4_K_M.
So this page does not say whether the paper is right. It says which of its findings these models show. The
paper's figures are taken from notes. The full paper was not available.

Differences are in points, with 95% intervals over documents and, if there are several, seeds. SDD is the
smallest difference that would have been shown four times out of five. See
[Intervals and tests](intervals.md).

- **Reproduced**: the interval lies on the paper's side of 0.
- **Not reproduced**: the interval lies on the other side of 0, or contains 0 but not the paper's figure.
- **Undecided**: the interval contains 0, and also the paper's figure if the paper reports this metric.

"""
FOOT = """
Low-resource languages are Welsh and Swahili, high-resource ones German, Hindi and Turkish. Code-switched
samples, which gain most here, are another method than the paper's: see [Results](index.md).

## Retrieval in the base predicts transfer

The paper's claim: the more translations of a language a base retrieves, the higher the language's score
after training on other languages (Pearson's r 0.56 and 0.70). Our correlations are between retrieval with
English in Gemma 3 270M (NTREX, 200 sentences per language, after block 11 of 18) and slot F1 of the adapter
(MASSIVE, test, 100 items per language, 1 seed), over the 47 languages without task data that both data sets
have.

| arm | Pearson's r [95% interval] | verdict |
| --- | --- | --- |
"""
REST = """
The aligned arms have seen sentence pairs of five of these languages. The retrieval is in
`leaderboard/analysis/gemma-3-270m-massive`, from `midalign analyze BASE --count 200 --layers 11` in these
languages.

## Not tested here

- Nineteen aligned languages gain hardly more than five (+1.9 and +1.5). Our sweep has up to six.
- COMET of translations (+1.1 from English).
- The paper's models, its length of training (about 2,250 updates of 128 samples) and its search of the
  weights for merging.

## Commands

`python scripts/experiments/paper_claims.py` writes this page. These commands print the same comparisons with
all languages of a role:

```bash
"""


def page() -> str:
    """Return the page as Markdown."""
    rows = [row for claim in CLAIMS for row in _rows(claim)]
    commands = dict.fromkeys(comparison.command for claim in CLAIMS for comparison in claim.comparisons)
    heading = "| claim | paper | arm | base and sample | difference | verdict |\n" + "| --- " * 6 + "|\n"
    correlations = "".join(map(_correlation, CORRELATED))
    return (
        HEAD
        + heading
        + "".join(rows)
        + FOOT
        + correlations
        + REST
        + "".join(f"{line}\n" for line in commands)
        + "```\n"
    )


def _rows(claim: Claim) -> Iterator[str]:
    """Yield a table row per comparison, the first one with the claim."""
    for number, comparison in enumerate(claim.comparisons):
        pair, scores = _pair(comparison, claim.metric)
        difference = _difference(claim, pair, scores)
        cells = [
            "" if number else claim.text,
            "" if number else claim.figure,
            comparison.form,
            _sample(pair),
            format_difference(difference),
            verdict(difference, claim.gain, loss=claim.loss),
        ]
        yield f"| {' | '.join(cells)} |\n"


def _correlation(arm: str) -> str:
    """Return a row on the correlation of the base's retrieval with an arm's slot F1."""
    folder = ROOT / "leaderboard"
    retrieval = load_analysis(folder / "analysis" / "gemma-3-270m-massive").retrieval_with_english(11)
    runs = list(runs_of_file(folder / "results" / f"massive-gemma-{arm}-seed1.json", arm))
    (correlation,) = correlate_scores(retrieval, runs)
    low, high = correlation.interval
    found = "reproduced" if low > 0 else "not reproduced"
    return f"| `{arm}` | {correlation.pearson:+.2f} [{low:+.2f}, {high:+.2f}] | {found} |\n"


@lru_cache
def _pair(comparison: Comparison, metric: str) -> tuple[RowPair, dict[str, Scores]]:
    """Return the rows of a comparison, and the draws of their records."""
    pairs = select_pairs(comparison.first, comparison.second, ROOT / "leaderboard" / comparison.folder)
    (pair,) = (pair for pair in pairs if metric in pair.section.metrics)
    return pair, bootstrap(pair.section)


def _difference(claim: Claim, pair: RowPair, scores: dict[str, Scores]) -> Estimate:
    """Return the mean difference over the claim's languages."""
    section = pair.section
    change, _ = seed_change(*section.rows, scores)
    codes = language_sets(section)[claim.languages] if isinstance(claim.languages, str) else claim.languages
    places = [section.languages.index(code) for code in codes]
    return estimate(mean_over_languages(change, places, list(section.metrics).index(claim.metric)))


def _sample(pair: RowPair) -> str:
    """Return base, split, items per language and number of shared seeds in words."""
    first = pair.section.first.record
    items = f"{first.sample.limit} items per language" if first.sample.limit else "all items"
    of_rows = ({run.record.seed for run in row.runs} for row in pair.section.rows)
    seeds = len(set.intersection(*of_rows))
    return f"{first.base.name}, {first.sample.split}, {items}, {seeds} seed{'s' * (seeds > 1)}"


def verdict(difference: Estimate, gain: float | None, *, loss: bool = False) -> str:
    """Return the verdict on a claim of a gain or a loss, whose size in points may not be known."""
    if not difference.holds_zero:
        return "reproduced" if (difference.value < 0) == loss else "not reproduced"
    holds_gain = gain is None or 100 * difference.low <= gain <= 100 * difference.high
    return "undecided" if holds_gain else "not reproduced"


def main(*arguments: str) -> None:
    """Write or check the page."""
    text = page()
    if "--check" in arguments:
        if PAGE.read_text("utf-8") != text:
            sys.exit(f"{PAGE} is outdated. Write it again: python scripts/experiments/paper_claims.py")
    else:
        PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
