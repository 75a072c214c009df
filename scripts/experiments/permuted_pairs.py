"""Write the pairs of recipe `massive-low` with the words of each aligned language permuted.

    python scripts/experiments/permuted_pairs.py FOLDER

Each word of a language is replaced by another word of the same language, everywhere by the same one. The
lexicon of these pairs is as large as that of the real pairs, and all its translations are wrong. An arm that
trains on them (`align.pairs: FOLDER/{language}.tsv`) shows what code-switched samples gain without any
knowledge of translations.
"""

import sys
from pathlib import Path

import numpy as np

from midalign.align.lexicon import bare_word, build_lexicon
from midalign.files import write_atomically
from midalign.train.recipe import load_recipe
from midalign.train.sentence_pairs import aligned_pairs


def permute_words(sentences: list[str], seed: int) -> list[str]:
    """Replace each word by the word that a permutation of the sentences' words puts in its place."""
    words = sorted({bare_word(word) for sentence in sentences for word in sentence.split()} - {""})
    shuffled = np.random.default_rng(seed).permutation(words).tolist()
    replacement = dict(zip(words, shuffled, strict=True)) | {"": ""}

    def replace(word: str) -> str:
        bare = bare_word(word)
        return word.replace(bare, replacement[bare]) if bare else word

    return [" ".join(map(replace, sentence.split())) for sentence in sentences]


def main(folder: Path) -> None:
    """Write one file per aligned language, and print the sizes of the lexicons before and after."""
    recipe = load_recipe("massive-low", ["base=unused"])
    align = recipe.align_of("switched")
    assert align is not None
    _, training = aligned_pairs(recipe, align)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (language, pairs) in enumerate(zip(recipe.aligned, training, strict=True)):
        english = [pair.english for pair in pairs]
        foreign = [pair.foreign for pair in pairs]
        permuted = permute_words(foreign, number)
        lines = [f"{left}\t{right}\n" for left, right in zip(permuted, english, strict=True)]
        write_atomically(folder / f"{language}.tsv", "".join(lines).encode())
        sizes = [len(build_lexicon(list(zip(side, english, strict=True)))) for side in (foreign, permuted)]
        print(f"{language}: {len(pairs):,} pairs, lexicon of {sizes[0]:,} entries, {sizes[1]:,} after")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
