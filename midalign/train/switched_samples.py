"""English task samples with words of the aligned languages: code-switching by a lexicon of the pairs."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from midalign import harness
from midalign.align.lexicon import Lexicon, build_lexicon, split_phrases
from midalign.errors import RecipeError
from midalign.train.samples import TokenizedSample
from midalign.train.sentence_pairs import PairSamples
from midalign.train.task_samples import TaskSamples

SMALLEST_LEXICON = 20
"""Entries that a language needs. Languages written without blanks have none."""


@dataclass
class SwitchedSamples:
    """Training documents in English whose words and whole slot values are replaced by translations.

    The translations come from the sentence pairs alone. The labels stay, so the model sees labelled values
    in the aligned languages without a labelled sentence in them.
    """

    task: TaskSamples
    pairs: PairSamples

    @cached_property
    def lexicons(self) -> list[Lexicon]:
        """Lexicons of the aligned languages that have one. Raises RecipeError if none has."""
        built = [build_lexicon([(p.foreign, p.english) for p in group]) for group in self.pairs.pairs]
        lexicons = [lexicon for lexicon in built if len(lexicon) >= SMALLEST_LEXICON]
        if not lexicons:
            raise RecipeError(
                f"align.switched_samples: no aligned language has a lexicon of {SMALLEST_LEXICON} phrases. "
                "Use more pairs, or languages written with blanks, or set it to 0"
            )
        return lexicons

    @cached_property
    def english(self) -> list[tuple[Any, dict[str, Any]]]:
        """(task, document) of all English training documents."""
        return [
            (task, document)
            for task, document in self.task.every
            if harness.task_languages(task.config.task) == ["en"]
        ]

    def draw(self, seed: int, batch: int, count: int) -> list[TokenizedSample]:
        """Return the switched samples of a batch."""
        random = np.random.default_rng([seed, batch, 1])
        samples = []
        for _ in range(count):
            task, document = self.english[random.integers(len(self.english))]
            lexicon = self.lexicons[random.integers(len(self.lexicons))]
            switch_words = harness.word_switch(task.config.task)
            switched = switch_words(document, partial(translate_phrases, lexicon=lexicon))
            samples.append(self.task.render(task, switched))
        return samples


def translate_phrases(text: str, lexicon: Lexicon, *, whole: bool) -> str:
    """Return a text with the translations of its phrases. Phrases without one stay English.

    With `whole`, a text is translated completely or not at all.
    """
    phrases = list(split_phrases(text, lexicon))
    if whole and not all(phrase.translation for phrase in phrases):
        return text
    return " ".join(phrase.translation or phrase.text for phrase in phrases)
