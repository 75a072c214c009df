"""Translation, scored per segment as integer counts. Every metric is a function of pooled counts.

BLEU (Papineni et al. 2002) and chrF++ (Popovic 2017) are sacreBLEU's: it tokenizes and counts n-grams,
segment by segment. The scores computed here from the sums equal its corpus scores up to rounding. With sums
instead of texts, intervals and paired tests can be recomputed from a record alone.
"""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midalign.metrics.description import MetricDescription, index_metrics
from midalign.metrics.identify import Identified, Wanted, identify
from midalign.metrics.rates import quotient

BLEU_ORDER = 4
CHRF_ORDERS = 8
"""Number of n-gram orders of chrF++: characters 1 to 6, then words 1 and 2."""

COLUMNS = (
    "n",
    "bleu_output",
    "bleu_reference",
    *(f"bleu_correct_{n}" for n in range(1, BLEU_ORDER + 1)),
    *(f"bleu_total_{n}" for n in range(1, BLEU_ORDER + 1)),
    *(f"chrf_{side}_{n}" for n in range(1, CHRF_ORDERS + 1) for side in ("output", "reference", "match")),
    "characters",
    "reference_characters",
    "off_target",
    "unidentified",
    "copied",
    "empty",
)
"""The counts of a segment. `n` is 1; tokens, n-gram matches and n-grams of BLEU; n-grams of output and
reference and their matches for each order of chrF++; characters without white space; whether the output is in
another language or script, whether that is undecided, whether it repeats the source, whether it is empty.
BLEU's are 0 if the tokenizer of the target language is not available."""

AT_MOST = (
    *((f"bleu_correct_{n}", f"bleu_total_{n}") for n in range(1, BLEU_ORDER + 1)),
    ("bleu_total_1", "bleu_output"),
    *((f"bleu_total_{n + 1}", f"bleu_total_{n}") for n in range(1, BLEU_ORDER)),
    ("bleu_correct_1", "bleu_reference"),
    *(
        (f"chrf_match_{n}", f"chrf_{side}_{n}")
        for n in range(1, CHRF_ORDERS + 1)
        for side in ("output", "reference")
    ),
    ("off_target", "unidentified", "n"),
    ("copied", "empty", "n"),
)
"""Columns of a segment that add up to at most the last one named."""

ADDED: frozenset[str] = frozenset()
"""Columns that records of earlier versions lack."""

DERIVED: dict[str, Callable[[NDArray[np.int64]], NDArray[np.int64]]] = {}
"""Columns that follow from the other columns of an item."""

DERIVED_METRICS: tuple[str, ...] = ()
"""Metrics that follow from the columns of every record."""

LOSS_METRICS: tuple[str, ...] = ()
"""Metrics of the tables of losses."""

HEADLINE = "chrf"

UNSEGMENTED = ("Thai", "Laoo", "Khmr", "Mymr", "Tibt")
"""Scripts without blanks between words. SacreBLEU's only tokenizer for them needs a model (`flores200`)."""

Counts = NDArray[np.int64]
Scores = NDArray[np.float64]


def tokenizer(language: str, script: str) -> str | None:
    """Return sacreBLEU's tokenizer for a target language, None if it is not installed.

    The default `13a` splits at blanks. Scripts without blanks need another one, and BLEU with the wrong
    tokenizer would be a different score.
    """
    if script in ("Hans", "Hant"):
        return "zh"
    if script == "Jpan":
        return "ja-mecab"
    if language == "ko":
        return "ko-mecab"
    if script in UNSEGMENTED:
        return "flores200" if flores_model_is_here() else None
    return "13a"


def flores_model_is_here() -> bool:
    """Return whether sacreBLEU has downloaded the sentencepiece model of `flores200`."""
    from sacrebleu.utils import SACREBLEU_DIR

    return Path(SACREBLEU_DIR, "models", "flores200sacrebleuspm").is_file()


@cache
def _bleu(tokenize: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenize, force=True)  # no warning about outputs that look tokenized


@cache
def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=2)


@cache
def signatures(tokenize: str | None) -> dict[str, str]:
    """Return sacreBLEU's signatures of both scores by metric, one reference per segment.

    Without a tokenizer there is no BLEU, and no signature of it.
    """
    by_metric = {}
    for name, metric in (("bleu", _bleu(tokenize) if tokenize else None), ("chrf", _chrf())):
        if metric is None:
            continue
        metric.corpus_score([""], [[""]])  # the signature needs the number of references
        by_metric[name] = str(metric.get_signature())
    return by_metric


def count_translation(
    source: str, reference: str, output: str, tokenize: str | None, target: Wanted
) -> list[int]:
    """Return the COLUMNS of one segment.

    Args:
        source: the text to be translated.
        reference: its translation.
        output: what the model answered.
        tokenize: name of sacreBLEU's tokenizer for the target language, None if it is not available.
        target: the target language, for the identifier.
    """
    output = output.strip()
    bleu = (
        _bleu(tokenize)._extract_corpus_statistics([output], [[reference]])[0]
        if tokenize
        else [0] * (2 + 2 * BLEU_ORDER)
    )
    chrf = _chrf()._extract_corpus_statistics([output], [[reference]])[0]
    language = in_language(output, reference, target)
    return [
        1,
        *bleu,
        *chrf,
        len("".join(output.split())),
        len("".join(reference.split())),
        int(language is Identified.OTHER),
        int(language is Identified.UNSURE),
        int(bool(output) and _folded(output) == _folded(source)),
        int(not output),
    ]


def in_language(output: str, reference: str, target: Wanted) -> Identified:
    """Return whether an output is in the target language and script, as far as the identifier can tell.

    If it does not recognise the reference itself (names, numbers), the output is not judged.
    """
    if identify(reference, target) is not Identified.TARGET:
        return Identified.UNSURE
    return identify(output, target)


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()


def _columns(counts: Counts, names: Iterable[str]) -> NDArray[np.float64]:
    """Return some columns, (..., names), as floats."""
    return counts[..., [COLUMNS.index(name) for name in names]].astype(np.float64)


def bleu(counts: Counts) -> Scores:
    """Return corpus BLEU, 0 to 100, of pooled counts (..., columns), with sacreBLEU's exponential smoothing.

    NaN if no reference was tokenized.
    """
    orders = range(1, BLEU_ORDER + 1)
    output, reference = np.moveaxis(_columns(counts, ("bleu_output", "bleu_reference")), -1, 0)
    correct = _columns(counts, (f"bleu_correct_{n}" for n in orders))
    total = _columns(counts, (f"bleu_total_{n}" for n in orders))
    # The k-th order without a match counts as 1 / 2^k of a match.
    smoothed = np.where(correct == 0, 0.5 ** np.cumsum(correct == 0, -1), correct)
    with np.errstate(divide="ignore"):
        brevity = np.exp(np.minimum(0, 1 - reference / np.maximum(output, 1e-9)))
        mean = np.log(smoothed / np.maximum(total, 1)).mean(-1)
    scored = correct.any(-1) & total.all(-1)
    tokenized = (reference > 0) | (_columns(counts, ("reference_characters",))[..., 0] == 0)
    return np.asarray(np.where(tokenized, np.where(scored, 100 * brevity * np.exp(mean), 0.0), np.nan))


def chrf(counts: Counts) -> Scores:
    """Return corpus chrF++, 0 to 100, of pooled counts (..., columns).

    It is the F2 of mean precision and mean recall.
    """
    orders = range(1, CHRF_ORDERS + 1)
    output, reference, match = (
        _columns(counts, (f"chrf_{side}_{n}" for n in orders)) for side in ("output", "reference", "match")
    )
    both = (output > 0) & (reference > 0)
    orders_scored = np.maximum(both.sum(-1), 1)
    precision = np.where(both, match / np.maximum(output, 1), 0).sum(-1) / orders_scored
    recall = np.where(both, match / np.maximum(reference, 1), 0).sum(-1) / orders_scored
    weighted = 4 * precision + recall
    return np.asarray(100 * 5 * precision * recall / np.where(weighted > 0, weighted, 1))


def _ratio(part: str, whole: str) -> Callable[[Counts], Scores]:
    def ratio(counts: Counts) -> Scores:
        return quotient(*np.moveaxis(_columns(counts, (part, whole)), -1, 0))

    return ratio


def off_target(counts: Counts) -> Scores:
    """Return the share of outputs in another language or script, of those that can be judged."""
    other, unsure, segments = np.moveaxis(_columns(counts, ("off_target", "unidentified", "n")), -1, 0)
    return quotient(other, segments - unsure)


METRICS = index_metrics(
    MetricDescription("chrf", "chrF++", chrf, percent=True),
    MetricDescription("bleu", "BLEU", bleu, percent=True),
    MetricDescription(
        "off_target",
        "off-target outputs, of those whose language can be told",
        off_target,
        higher_is_better=False,
    ),
    MetricDescription(
        "unidentified",
        "outputs whose language cannot be told",
        _ratio("unidentified", "n"),
        higher_is_better=False,
    ),
    MetricDescription(
        "copied", "outputs that repeat the source", _ratio("copied", "n"), higher_is_better=False
    ),
    MetricDescription("empty", "empty outputs", _ratio("empty", "n"), higher_is_better=False),
    MetricDescription(
        "length_ratio",
        "length, of the reference's",
        _ratio("characters", "reference_characters"),
        higher_is_better=None,
    ),
)
"""chrF++ and BLEU from 0 to 100, as in sacreBLEU. Shares of segments, `off_target` of the judged ones. The
ratio of lengths is in characters."""

DIFFERENCE_METRICS = ("chrf", "bleu", "off_target", "copied", "length_ratio")
"""Metrics of the table of differences."""

DETAIL_METRICS = ("off_target", "unidentified", "copied", "empty")
"""Metrics of the last table per language."""

DETAIL_TITLE = "Ways to fail"

READABLE = "n"
"""Any text can be read as a translation."""

COMPARABLE = False
"""n-grams of two target languages are different things."""
