"""Sentence pairs to align, drawn into batches, and the samples made of their sentences."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from midalign.data import pairs
from midalign.train.recipe import Align, Recipe
from midalign.train.samples import SampleTokenizer, TokenizedSample

COPY = "Utterance: {sentence}\nCopy:"
"""A copy sample: the model repeats the sentence; it keeps values from being translated."""


class Pair(NamedTuple):
    """A sentence, by place of its language in the recipe, and its English."""

    language: int
    foreign: str
    english: str
    partner: str | None = None
    """Of multi-way pairs: a translation into a third language, which is aligned in place of the English."""

    @property
    def sides(self) -> tuple[str, str]:
        """The two sentences that are aligned."""
        return self.foreign, self.english if self.partner is None else self.partner


def aligned_pairs(recipe: Recipe, align: Align) -> tuple[list[list[Pair]], list[list[Pair]]]:
    """Return the held-out pairs, in a seeded order, and those to train on, both by language."""
    every = []
    for number, language in enumerate(recipe.aligned):
        own = [Pair(number, *pair) for pair in pairs.pairs(align.pairs, language)]
        order = np.random.default_rng(0).permutation(len(own)) if align.held_out else range(len(own))
        every.append([own[i] for i in order])
    held_out = [own[: align.held_out] for own in every]
    kept = {side for own in held_out for pair in own for side in pair.sides}
    rest = ([pair for pair in own if not kept.intersection(pair.sides)] for own in every)
    return held_out, [_chosen(own, align.pairs_a_language) for own in rest]


def _chosen(own: list[Pair], count: int | None) -> list[Pair]:
    """Choose `count` of a language's pairs, with the same English sentences in all languages."""
    if count is None:
        return own
    return sorted(own, key=lambda p: (hashlib.sha256(p.english.encode()).digest(), p.foreign))[:count]


def meanings(by_language: Iterable[Iterable[Pair]]) -> dict[str, str]:
    """Map each English sentence to one that stands for all sentences linked with it by shared translations.

    Sentences that translate each other have one meaning, whatever the third sentence is that links them.
    """
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        while parent.setdefault(text, text) != text:
            parent[text] = text = parent[parent[text]]
        return text

    every = [pair for own in by_language for pair in own]
    for pair in every:
        parent[root(pair.foreign)] = root(pair.english)
    return {pair.english: root(pair.english) for pair in every}


@dataclass
class PairSamples:
    """Sentence pairs of the aligned languages with English, every language as often as every other."""

    recipe: Recipe
    align: Align
    tokens: SampleTokenizer

    @cached_property
    def _parted(self) -> tuple[list[list[Pair]], list[list[Pair]]]:
        return aligned_pairs(self.recipe, self.align)

    @cached_property
    def held_out(self) -> list[list[Pair]]:
        """Pairs that are not trained on, by language."""
        return self._parted[0]

    @cached_property
    def pairs(self) -> list[list[Pair]]:
        """Pairs to train on, by language: none of which one side is held out."""
        return self._parted[1]

    @cached_property
    def meanings(self) -> dict[str, str]:
        """`meanings` of the pairs to train on."""
        return meanings(self.pairs)

    @cached_property
    def _versions(self) -> dict[str, dict[int, list[str]]]:
        """English sentence -> place of a language -> what it is there."""
        found: dict[str, dict[int, list[str]]] = {}
        for pair in (pair for own in self.pairs for pair in own):
            found.setdefault(pair.english, {}).setdefault(pair.language, []).append(pair.foreign)
        return found

    def draw(self, seed: int, batch: int) -> list[Pair]:
        """Return the pairs of one batch.

        No English sentence occurs twice: its translation would be a false negative.

        In multi-way batches no meaning occurs twice.
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
        """Pair the sentence with its translation in another language, drawn from those with its English."""
        versions = self._versions[pair.english]
        others = [versions[language] for language in versions if language != pair.language]
        number = int(random.integers(len(others) + 1))
        if number == len(others):
            return pair
        return pair._replace(partner=others[number][random.integers(len(others[number]))])

    def copies(self, drawn: Sequence[Pair]) -> list[TokenizedSample]:
        """Return sentences to repeat."""
        sentences = _sentences(drawn, self.align.copy_samples)
        return [self.tokens.sample(COPY.format(sentence=s), f" {s}") for s in sentences]

    def texts(self, drawn: Sequence[Pair]) -> list[TokenizedSample]:
        """Return sentences to predict, token by token."""
        sentences = [self.tokens.sentence(s) for s in _sentences(drawn, self.align.text_samples)]
        return [TokenizedSample(ids[:1], ids[1:]) for ids in sentences]


def _sentences(drawn: Sequence[Pair], count: int) -> list[str]:
    """Return some sentences of the pairs, a quarter English: alignment degrades other languages first."""
    return [
        drawn[i % len(drawn)].english if i % 4 == 3 else drawn[i % len(drawn)].foreign for i in range(count)
    ]
