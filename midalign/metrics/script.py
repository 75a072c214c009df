"""Recognise the script of a text, by the names of its letters and, for Chinese, by two character sets."""

import unicodedata
from functools import lru_cache

LETTERS = {
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Gujr": ("GUJARATI",),
    "Guru": ("GURMUKHI",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Khmr": ("KHMER",),
    "Knda": ("KANNADA",),
    "Kore": ("HANGUL", "CJK"),
    "Laoo": ("LAO",),
    "Latn": ("LATIN",),
    "Mlym": ("MALAYALAM",),
    "Mymr": ("MYANMAR",),
    "Olck": ("OL",),
    "Orya": ("ORIYA",),
    "Sinh": ("SINHALA",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Tfng": ("TIFINAGH",),
    "Thaa": ("THAANA",),
    "Thai": ("THAI",),
    "Tibt": ("TIBETAN",),
}
"""First words of the Unicode names of a script's letters, by ISO 15924 code."""

CHARACTER_SETS = {"Hans": ("gb2312", "big5"), "Hant": ("big5", "gb2312")}
"""The national character set of each Chinese script, and that of the other. A character that only one of them
has tells the scripts apart."""

LEAST = 0.2
"""Share of a text's letters that a script needs. It is low: a name in Latin letters can be longer than
the Chinese sentence around it has characters."""


def in_script(text: str, script: str) -> bool | None:
    """Return whether `text` is written in `script` (ISO 15924), None for a text without letters.

    Simplified and Traditional Chinese share most characters. A text is in the other script if more of its
    characters are only in the other's character set than only in its own.
    """
    letters = [letter for letter in text if letter.isalpha()]
    if not letters:
        return None
    belonging = sum(_first_word(letter) in LETTERS[script] for letter in letters)
    if belonging < LEAST * len(letters):
        return False
    if script not in CHARACTER_SETS:
        return True
    own, other = CHARACTER_SETS[script]
    return sum(_only_in(letter, other, own) for letter in letters) <= sum(
        _only_in(letter, own, other) for letter in letters
    )


@lru_cache(maxsize=2**16)
def _first_word(letter: str) -> str:
    return (
        unicodedata.name(letter, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").partition(" ")[0]
    )


@lru_cache(maxsize=2**16)
def _only_in(letter: str, one: str, other: str) -> bool:
    """Return whether a character is in the character set `one` and not in `other`."""
    return _encodable(letter, one) and not _encodable(letter, other)


def _encodable(letter: str, encoding: str) -> bool:
    try:
        letter.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
