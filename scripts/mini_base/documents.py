"""Draw training documents: plain text, translations and exercises, as a pure function of seed and shard."""

import random

from .exercises import EOS, EXERCISES, json_few_shot
from .texts import LANGUAGES, Corpus, Meaning

SHARD_DOCUMENTS = 40_000
SHARES = {"sentences": 0.20, "translations": 0.40, "exercises": 0.38, "few_shot": 0.02}
"""Relative frequency of the kinds of documents."""
SOURCES = {"mini": 0.35, "massive": 0.35, "all": 0.30}
"""Relative frequency of the sentences' sources: the mini benchmark, MASSIVE, every source."""
LONGEST_EXERCISE = 160
"""Longest sentence that an exercise is made from, in UTF-8 bytes."""

NAMES = {
    "en": ("English", "English"), "es": ("Spanish", "Español"), "ru": ("Russian", "Русский"),
    "zh": ("Chinese", "中文"), "de": ("German", "Deutsch"), "tr": ("Turkish", "Türkçe"),
    "hi": ("Hindi", "हिन्दी"), "fr": ("French", "Français"), "id": ("Indonesian", "Bahasa Indonesia"),
    "ja": ("Japanese", "日本語"),
}  # fmt: skip
"""English name and own name per language."""


class DocumentStream:
    """Draw shards of documents from a corpus; a shard depends on seed and number alone."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        """Prepare the lists that documents are drawn from."""
        self.corpus = corpus
        self.seed = seed
        self.short = {
            language: [text for text in corpus.sentences[language] if len(text.encode()) <= LONGEST_EXERCISE]
            for language in LANGUAGES
        }
        # Meanings per language, so that every language has its turn however many meanings it has.
        self.meanings, self.mini_meanings = (
            {language: [meaning for meaning in meanings if language in meaning] for language in LANGUAGES}
            for meanings in (corpus.meanings, corpus.mini_meanings)
        )

    def shard(self, number: int) -> list[str]:
        """Return the documents of one shard in random order."""
        draw = random.Random(f"{self.seed}/{number}")
        kinds = draw.choices(list(SHARES), list(SHARES.values()), k=SHARD_DOCUMENTS)
        makers = {
            "sentences": self._sentences,
            "translations": self._translations,
            "exercises": self._exercise,
            "few_shot": self._few_shot,
        }
        return [makers[kind](draw) for kind in kinds]

    def _sentences(self, draw: random.Random) -> str:
        """Return one to four sentences of one language, one per line."""
        count = draw.choice((1, 1, 2, 3, 4))
        return "\n".join(self._draw(self.corpus.sentences, draw.choice(LANGUAGES), count, draw))

    def _draw(self, every: dict[str, list[str]], language: str, count: int, draw: random.Random) -> list[str]:
        """Draw sentences of one source and language; `every` holds those of the source "all"."""
        (source,) = draw.choices(list(SOURCES), list(SOURCES.values()))
        texts = {"mini": self.corpus.mini, "massive": self.corpus.massive, "all": every}[source]
        return draw.choices(texts[language], k=count)

    def _translations(self, draw: random.Random) -> str:
        """Return pairs of two languages, or one sentence in several languages."""
        source = draw.choice(LANGUAGES)
        pool = (self.mini_meanings if draw.random() < SOURCES["mini"] else self.meanings)[source]
        meaning = draw.choice(pool)
        target = draw.choice([language for language in meaning if language != source])
        form = draw.random()
        if form < 0.35:
            return self._many_languages(meaning, draw)
        meanings = [meaning] + [
            other
            for other in draw.choices(pool, k=draw.choice((0, 1, 2, 3)))
            if target in other and other is not meaning
        ]
        pairs = [(meaning[source], meaning[target]) for meaning in meanings]
        if form < 0.6:
            return "\n".join(f"{first} = {second}" for first, second in pairs)
        style = draw.randrange(3)
        before, after = (code if style == 2 else NAMES[code][style] for code in (source, target))
        if form < 0.9:
            separator = draw.choice(("\n", "\n\n"))
            return separator.join(f"{before}: {first}\n{after}: {second}" for first, second in pairs)
        first, second = pairs[0]
        return f"<|user|>\n{before}: {first}\n{after}:{EOS}\n<|assistant|>\n{second}"

    def _many_languages(self, meaning: Meaning, draw: random.Random) -> str:
        """Return one sentence in two to six languages, with or without the names of the languages."""
        languages = draw.sample(sorted(meaning), min(len(meaning), draw.randint(2, 6)))
        style = draw.randrange(4)
        if style == 3:
            return "\n".join(meaning[language] for language in languages)
        names = [language if style == 2 else NAMES[language][style] for language in languages]
        return "\n".join(
            f"{name}: {meaning[language]}" for name, language in zip(names, languages, strict=True)
        )

    def _exercise(self, draw: random.Random) -> str:
        """Return one exercise on short sentences of one language."""
        language = draw.choice(LANGUAGES)
        first, second = self._draw(self.short, language, 2, draw)
        (exercise,) = draw.choices(list(EXERCISES), list(EXERCISES.values()))
        return exercise(first, second, language, draw)

    def _few_shot(self, draw: random.Random) -> str:
        """Return two to eight sentences of one language with JSON of one shape."""
        language = draw.choice(LANGUAGES)
        return json_few_shot(self._draw(self.short, language, draw.randint(2, 8), draw), language, draw)
