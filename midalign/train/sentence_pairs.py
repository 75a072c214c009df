"""Sentence pairs to align, drawn into batches, and the samples made of their sentences."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from midalign.data.pairs import read_pairs
from midalign.train.recipe import Align, Recipe
from midalign.train.samples import SampleTokenizer, TokenizedSample

COPY = "Utterance: {sentence}\nCopy:"
"""Prompt of a copy sample, which keeps the model from translating slot values."""


class Pair(NamedTuple):
    """A sentence in an aligned language and its English translation."""

    language: int
    """Index in the recipe's `aligned`."""
    foreign: str
    english: str
    partner: str | None = None
    """In multi-way pairs, a translation into a third language that is aligned instead of the English one."""

    @property
    def sides(self) -> tuple[str, str]:
        """The two sentences that are aligned."""
        return self.foreign, self.english if self.partner is None else self.partner


def aligned_pairs(recipe: Recipe, align: Align) -> tuple[list[list[Pair]], list[list[Pair]]]:
    """Return held-out pairs, in a seeded order, and training pairs, both by language.

    A training pair shares no sentence with a held-out pair of any language.
    """
    by_language = []
    share = recipe.labelled_share or 0.0
    for number, language in enumerate(recipe.aligned):
        group = [Pair(number, *pair) for pair in read_pairs(align.pairs, language, share)]
        if align.held_out:
            group = [group[i] for i in np.random.default_rng(0).permutation(len(group))]
        by_language.append(group)
    held_out = [group[: align.held_out] for group in by_language]
    excluded = {side for group in held_out for pair in group for side in pair.sides}
    rest = ([pair for pair in group if not excluded.intersection(pair.sides)] for group in by_language)
    return held_out, [_choose_pairs(group, align.pairs_a_language) for group in rest]


def _choose_pairs(group: list[Pair], count: int | None) -> list[Pair]:
    """Choose `count` pairs of a language, as far as possible the same English sentences in all languages."""
    if count is None:
        return group
    return sorted(group, key=lambda p: (hashlib.sha256(p.english.encode()).digest(), p.foreign))[:count]


def meanings(by_language: Iterable[Iterable[Pair]]) -> dict[str, str]:
    """Map each English sentence to a representative of its meaning, by union-find over all pairs.

    Sentences have the same meaning if a chain of translations links them.
    """
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = text = parent[parent[text]]
        return text

    all_pairs = [pair for group in by_language for pair in group]
    for pair in all_pairs:
        parent[root(pair.foreign)] = root(pair.english)
    return {pair.english: root(pair.english) for pair in all_pairs}


@dataclass
class PairSamples:
    """Sentence pairs of the aligned languages with English, drawn uniformly over languages."""

    recipe: Recipe
    align: Align
    tokens: SampleTokenizer

    @cached_property
    def _parted(self) -> tuple[list[list[Pair]], list[list[Pair]]]:
        return aligned_pairs(self.recipe, self.align)

    @cached_property
    def held_out(self) -> list[list[Pair]]:
        """Held-out pairs by language."""
        return self._parted[0]

    @cached_property
    def pairs(self) -> list[list[Pair]]:
        """Training pairs by language."""
        return self._parted[1]

    @cached_property
    def meanings(self) -> dict[str, str]:
        """`meanings` of the training pairs."""
        return meanings(self.pairs)

    @cached_property
    def _versions(self) -> dict[str, dict[int, list[str]]]:
        """English sentence -> index of a language -> its translations."""
        versions: dict[str, dict[int, list[str]]] = {}
        for pair in (pair for group in self.pairs for pair in group):
            versions.setdefault(pair.english, {}).setdefault(pair.language, []).append(pair.foreign)
        return versions

    def draw(self, seed: int, batch: int) -> list[Pair]:
        """Return the pairs of a batch.

        No English sentence occurs twice, since its translations would be false negatives of each other. In
        multi-way batches no meaning occurs twice.
        """
        random = np.random.default_rng([seed, batch])
        size, drawn = self.align.pairs_per_update, dict[str, Pair]()
        for _ in range(100 * size):
            if len(drawn) == size:
                break
            language = int(random.integers(len(self.pairs)))
            pair = self.pairs[language][random.integers(len(self.pairs[language]))]
            if self.align.multiway:
                drawn.setdefault(self.meanings[pair.english], self._with_partner(pair, random))
            else:
                drawn.setdefault(pair.english, pair)
        return list(drawn.values())

    def _with_partner(self, pair: Pair, random: np.random.Generator) -> Pair:
        """Draw a partner among English and the languages that have a translation of the English sentence."""
        versions = self._versions[pair.english]
        others = [versions[language] for language in versions if language != pair.language]
        number = int(random.integers(len(others) + 1))
        if number == len(others):
            return pair
        return pair._replace(partner=others[number][random.integers(len(others[number]))])

    def copies(self, drawn: Sequence[Pair]) -> list[TokenizedSample]:
        """Return samples that repeat sentences of the drawn pairs."""
        sentences = _sentences(drawn, self.align.copy_samples)
        return [self.tokens.sample(COPY.format(sentence=s), f" {s}") for s in sentences]

    def texts(self, drawn: Sequence[Pair]) -> list[TokenizedSample]:
        """Return samples that predict sentences of the drawn pairs token by token."""
        sentences = [self.tokens.sentence(s) for s in _sentences(drawn, self.align.text_samples)]
        return [TokenizedSample(ids[:1], ids[1:]) for ids in sentences]


def _sentences(drawn: Sequence[Pair], count: int) -> list[str]:
    """Return sentences of the pairs, a quarter English, since alignment degrades other languages first."""
    return [
        drawn[i % len(drawn)].english if i % 4 == 3 else drawn[i % len(drawn)].foreign for i in range(count)
    ]
