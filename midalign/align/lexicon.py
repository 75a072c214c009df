"""Phrase lexicons from sentence pairs: word alignment by IBM Model 1, then consistent phrase pairs."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
"""Rounds of expectation maximisation. The probabilities of frequent words hardly change after five."""
LONGEST = 4
"""Words of the longest English phrase. Longer ones would be whole utterances with their labels."""
SMALLEST_COUNT = 2
"""Sentence pairs that a phrase must occur in with the same translation."""
DIAGONAL = 2.0
"""Preference for links at similar relative positions, which tells the occurrences of a word apart."""

Lexicon = dict[tuple[str, ...], str]
"""Foreign phrase by casefolded English words."""


def bare_word(word: str) -> str:
    """Return a word without punctuation and symbols on either side. Combining marks stay."""
    inner = [number for number, letter in enumerate(word) if unicodedata.category(letter)[0] not in "PS"]
    return word[inner[0] : inner[-1] + 1] if inner else ""


def build_lexicon(pairs: Sequence[tuple[str, str]]) -> Lexicon:
    """Return the most frequent translation of each English phrase of up to LONGEST words.

    Words are aligned by IBM Model 1 (Brown et al., 1993, Computational Linguistics 19(2)) in both directions:
    two words are linked if each is the other's best. A phrase pair is consistent if no word of either side is
    linked outside of it (Koehn et al., 2003, Statistical Phrase-Based Translation).

    Args:
        pairs: (foreign, English) sentences. Words are separated by blanks, so languages without blanks have
            almost no entries.
    """
    sentences = [
        ([*map(bare_word, foreign.split())], [bare_word(word).casefold() for word in english.split()])
        for foreign, english in pairs
        if foreign.split() and english.split()
    ]
    probability = _link_probabilities(sentences)
    translations: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for (foreign, english), links in zip(sentences, map(_links, probability), strict=True):
        for (first, last), (start, end) in _phrase_pairs(links, len(english)):
            if all(english[first : last + 1]) and all(foreign[start : end + 1]):
                translations[tuple(english[first : last + 1])][" ".join(foreign[start : end + 1])] += 1
    best = {phrase: counter.most_common(1)[0] for phrase, counter in translations.items()}
    return {phrase: translation for phrase, (translation, count) in best.items() if count >= SMALLEST_COUNT}


def _link_probabilities(sentences: Sequence[tuple[list[str], list[str]]]) -> Iterator[NDArray[np.float64]]:
    """Yield t(f | e) t(e | f) of each sentence pair's words, (foreign words, English words), by IBM Model 1.

    Word 0 of both vocabularies is the empty word, from which any word may come.
    """
    foreign, english = _Vocabulary(), _Vocabulary()
    # 1. All combinations of a foreign and an English word of a pair, the empty word among both.
    shapes, parts = [], []
    for number, (f_words, e_words) in enumerate(sentences):
        f_ids = np.array([0, *foreign.numbers(word.casefold() for word in f_words)])
        e_ids = np.array([0, *english.numbers(e_words)])
        shapes.append((len(f_ids), len(e_ids)))
        f, e = (grid.ravel() for grid in np.meshgrid(f_ids, e_ids, indexing="ij"))
        f_place, e_place = np.divmod(np.arange(f.size), len(e_ids))
        parts.append(np.stack([f, e, f_place, e_place, np.full(f.size, number)]))
    if not parts:
        return
    f, e, f_place, e_place, sentence = np.concatenate(parts, axis=1)
    kinds, kind = np.unique(f * len(english.words) + e, return_inverse=True)
    # 2. Both directions, then one matrix per sentence without the empty words.
    longest = max(max(shape) for shape in shapes)
    f_token, e_token = (sentence * longest + place for place in (f_place, e_place))
    product = _translation_probabilities(f_token, f_place > 0, e, kind, len(kinds))
    product *= _translation_probabilities(e_token, e_place > 0, f, kind, len(kinds))
    start = 0
    for rows, columns in shapes:
        yield product[kind[start : start + rows * columns]].reshape(rows, columns)[1:, 1:]
        start += rows * columns


def _translation_probabilities(
    token: NDArray[np.int64],
    real: NDArray[np.bool_],
    source: NDArray[np.int64],
    kind: NDArray[np.intp],
    kinds: int,
) -> NDArray[np.float64]:
    """Return t(target | source) of each kind of combination, (kinds,).

    Args:
        token: Numbers of the target tokens of all combinations, (combinations,).
        real: Whether the target token is not the empty word.
        source: Numbers of the source words.
        kind: Number of each combination's (target, source).
        kinds: Number of different (target, source) combinations.
    """
    source_of_kind = np.zeros(kinds, np.int64)
    source_of_kind[kind] = source
    probability = np.ones(kinds)
    for _ in range(ROUNDS):
        share = probability[kind] * real
        share /= np.maximum(np.bincount(token, share)[token], 1e-300)
        counts = np.bincount(kind, share, kinds)
        probability = counts / np.maximum(np.bincount(source_of_kind, counts)[source_of_kind], 1e-300)
    return probability


class _Vocabulary:
    """Numbers of words. 0 is the empty word."""

    def __init__(self) -> None:
        self.words = {"": 0}

    def numbers(self, words: Iterable[str]) -> list[int]:
        """Return the numbers of words. A new word gets the next number."""
        return [self.words.setdefault(word, len(self.words)) for word in words]


def _links(probability: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return (foreign, English) positions of words that are each other's most probable link."""
    rows, columns = probability.shape
    distance = np.abs(np.arange(rows)[:, None] / rows - np.arange(columns) / columns)
    score = probability * np.exp(-DIAGONAL * distance)
    best = score.argmax(1)
    return [(f, int(e)) for f, e in enumerate(best) if score[f, e] > 0 and score[:, e].argmax() == f]


def _phrase_pairs(
    links: Sequence[tuple[int, int]], length: int
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield consistent (first, last) English and foreign positions. The first and last words are linked."""
    english = {e: f for f, e in links}
    foreign = {f: e for f, e in links}
    for first in sorted(english):
        for last in range(first, min(first + LONGEST, length)):
            if last not in english:
                continue
            inside = [english[e] for e in range(first, last + 1) if e in english]
            start, end = min(inside), max(inside)
            if all(first <= foreign.get(f, first) <= last for f in range(start, end + 1)):
                yield (first, last), (start, end)


@dataclass(frozen=True)
class Phrase:
    """Consecutive words of an English text, and their translation."""

    text: str
    translation: str | None
    """None if the lexicon has none. The punctuation around the words is kept."""


def split_phrases(text: str, lexicon: Lexicon) -> Iterator[Phrase]:
    """Yield a text's phrases from left to right, each the longest one that the lexicon has.

    Numbers translate to themselves.
    """
    words = text.split()
    bare = [bare_word(word) for word in words]
    start = 0
    while start < len(words):
        for end in range(min(start + LONGEST, len(words)), start, -1):
            key = tuple(word.casefold() for word in bare[start:end])
            inner = " ".join(words[start:end])
            phrase = " ".join(bare[start:end])
            translation = phrase if phrase.isdecimal() else lexicon.get(key)
            if translation is not None and phrase in inner:
                yield Phrase(inner, inner.replace(phrase, translation, 1))
                break
        else:
            end = start + 1
            yield Phrase(words[start], words[start] if not bare[start] else None)
        start = end
