"""Fold texts, so that answers are equal if a reader takes them for the same.

The basis is Unicode's compatibility caseless match (The Unicode Standard, section 3.13, D146): NFKD and full
case folding, here composed again. It makes capitals, full-width and presentation forms, and a letter and its
accent equal in any encoding. On top of it:

- format characters (category Cf: zero-width joiners, blanks and direction marks) and variation selectors are
  dropped;
- sequences that are drawn alike are one: Malayalam and Bengali letters without a vowel, Thai and Lao vowels
  typed in parts or in another order, Khmer's two subscript letters;
- a dot above i or j is ignored, so İ and i are equal in every language;
- quotation marks, apostrophes, hyphens and dashes, commas, full stops and semicolons have one form each;
- capitals follow the language's own rules if they differ from Unicode's default: I, ı, İ and i are one letter
  in languages with both, Greek capitals have no accents, Armenian's ligature և has the capitals ԵՎ;
- blanks next to a letter of a script without blanks between words are dropped.

Digits of different scripts, and letters that only look alike, stay different.
"""

import re
import unicodedata

DOTLESS_I = ("az", "crh", "tr")
"""Languages in Latin script in which I is the capital of ı, and İ the capital of i."""

INVISIBLE = frozenset("\u034f\u17b4\u17b5" + "".join(map(chr, range(0xFE00, 0xFE10))))
"""Invisible marks: the grapheme joiner, Khmer's inherent vowels, variation selectors."""

ALIKE = str.maketrans(
    {
        # Malayalam chillus and Bengali khanda ta: the letter, the virama, and a joiner that is dropped.
        "ൺ": "ണ്",
        "ൻ": "ന്",
        "ർ": "ര്",
        "ൽ": "ല്",
        "ൾ": "ള്",
        "ൿ": "ക്",
        "ൔ": "മ്",
        "ൕ": "യ്",
        "ൖ": "ഴ്",
        "ৎ": "ত্",
        # Punctuation.
        **dict.fromkeys("‘’‚‛`ʹʼ′׳", "'"),
        **dict.fromkeys("“”„‟«»״〝〞", '"'),
        **dict.fromkeys("‐‑‒–—―−־", "-"),
        **dict.fromkeys("،、", ","),
        **dict.fromkeys("؛", ";"),
        **dict.fromkeys("。۔।", "."),
        "〜": "~",
    }
)

DRAWN_ALIKE = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"([ijı])(\u0328?)\u0307+", r"\1\2"),  # the dot of i, j and į
        (r"\u0d4d+", "\u0d4d"),  # a chillu with a virama of its own, as in ൻ്റ
        (r"\u0e40\u0e40", "\u0e41"),  # Thai ae, typed as two e
        (r"\u0ec0\u0ec0", "\u0ec1"),
        # The tone of Thai and Lao am, before or after its ring.
        (r"\u0e4d([\u0e48-\u0e4b])\u0e32", "\\1\u0e4d\u0e32"),
        (r"\u0ecd([\u0ec8-\u0ecb])\u0eb2", "\\1\u0ecd\u0eb2"),
        (r"\u17d2\u178a", "\u17d2\u178f"),  # Khmer's subscript da and ta
    )
)

_UNSPACED = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED += "\u0e01-\u0e5b\u0e81-\u0edf\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9fe\u1780-\u17e9"
BESIDE_UNSPACED = re.compile(rf"(?<=[{_UNSPACED}])\s+|\s+(?=[{_UNSPACED}])")
"""Blanks next to Han, kana, Thai, Lao, Burmese or Khmer, which separate phrases at most."""

FULL_STOPS = ".。．｡۔।።။។։"
"""Full stops of all scripts of the data sets."""


def fold(text: str, language: str) -> str:
    """Return a text folded as described above, to look values up in it.

    Args:
        text: any text.
        language: code of `languages.tsv`, for its capitals.
    """
    letters = fold_letters(text, language)
    return " ".join(letters.split() if letters.isascii() else BESIDE_UNSPACED.sub("", letters).split())


def normalise(value: str, language: str) -> str:
    """Return a value folded and without a final full stop, to compare it with other values.

    A value that consists of full stops keeps them.
    """
    folded = fold(value, language)
    return folded.rstrip(f"{FULL_STOPS} ") or folded


def fold_letters(text: str, language: str) -> str:
    """Return a text folded except for its blanks."""
    if text.isascii():
        return text.casefold().replace("`", "'")
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFD", text).casefold())
    # NFKD turns symbols such as ™ into capitals, so case is folded again after it.
    visible = "".join(character for character in decomposed.casefold() if not _invisible(character))
    folded = _capitals(unicodedata.normalize("NFKD", visible.translate(ALIKE)), language)
    for pattern, replacement in DRAWN_ALIKE:
        folded = pattern.sub(replacement, folded)
    return unicodedata.normalize("NFC", folded)


def _invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or character in INVISIBLE


def _capitals(folded: str, language: str) -> str:
    """Map letters to one form if they have the same capital in the language, but not by Unicode's default."""
    if language in DOTLESS_I:
        return folded.replace("ı", "i")
    if language == "el":
        return folded.replace("\u0301", "").replace("\u0308", "")
    return folded.replace("եվ", "եւ") if language == "hy" else folded
