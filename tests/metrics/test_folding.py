"""Answers that a reader takes for the same one, and answers that stay apart."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midalign.metrics.folding import fold, normalise


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        # CLDR: Turkish and Azerbaijani capitals of i and ı, by their own rule and by Unicode's default.
        ("tr", "istanbul", "İSTANBUL"),
        ("tr", "istanbul", "Istanbul"),
        ("tr", "istanbul", "İstanbul".lower()),
        ("tr", "ışık", "IŞIK"),
        ("az", "bakı", "BAKI"),
        ("az", "iki", "İKİ"),
        # Full case folding elsewhere, and a dot above i that nobody sees.
        ("de", "straße", "STRASSE"),
        ("de", "istanbul", "İstanbul"),
        ("lt", "i\u0307\u0301", "Í"),
        # Greek capitals have no tonos; the final sigma is a sigma.
        ("el", "αθήνα", "ΑΘΗΝΑ"),
        ("el", "μάιος", "ΜΑΪΟΣ"),
        # Armenian writes the capitals of և as ԵՎ, Unicode's default as ԵՒ.
        ("hy", "և", "ԵՎ"),
        ("hy", "և", "ԵՒ"),
        # Format characters.
        ("fa", "پنج\u200cشنبه", "پنجشنبه"),
        ("te", "ఫేస్\u200cబుక్", "ఫేస్బుక్"),
        ("my", "ဒီ\u200bနေ့", "ဒီနေ့"),
        ("de", "\ufeffneun\u00adzehn\u200e", "neunzehn"),
        # A Malayalam chillu as one character, and as letter, virama and joiner; nta in its three encodings.
        ("ml", "\u0d05\u0d35\u0d7b", "\u0d05\u0d35\u0d28\u0d4d\u200d"),
        ("ml", "\u0d28\u0d4d\u0d31", "\u0d7b\u0d4d\u0d31"),
        ("ml", "\u0d28\u0d4d\u0d31", "\u0d28\u0d4d\u200d\u0d31"),
        ("bn", "\u0989\u09ce\u09b8", "\u0989\u09a4\u09cd\u200d\u09b8"),
        # Thai and Lao sara am, whole, in parts, and with its tone on either side; ae typed as two e.
        ("th", "น้ำ", unicodedata.normalize("NFKC", "น้ำ")),
        ("th", "น้ำ", "น\u0e4d\u0e49\u0e32"),
        ("lo", "ນ້ຳ", "ນ\u0ecd\u0ec9\u0eb2"),
        ("th", "\u0e41จ๊ส", "\u0e40\u0e40จ๊ส"),
        ("lo", "ຫນ", "\u0edc"),
        # Khmer's subscript da and ta are drawn alike.
        ("km", "សប្ដាហ៍", "សប្តាហ៍"),
        # Presentation forms, full width and punctuation.
        ("ar", "لا", "\ufefb"),
        ("ja", "ｶﾞ", "ガ"),
        ("zh", "９：３０", "9:30"),
        ("fr", "aujourd’hui", "aujourd'hui"),
        ("he", "ג׳אז", "ג'אז"),
        ("hi", "चार पी.एम।", "चार पी.एम."),
        # Full stops, and blanks where none are written.
        ("en", "nine a.m.", "nine a.m"),
        ("hy", "ինը։", "ինը"),
        ("ja", "明日 の 朝", "明日の朝"),
        ("zh", "iphone 12 的", "iphone 12的"),
        ("th", "สอง มีนาคม", "สองมีนาคม"),
        ("km", "ផ្ទះ បាយ", "ផ្ទះបាយ"),
        ("en", "  nine \u00a0am ", "nine am"),
    ],
)
def test_what_reads_the_same_is_equal(language: str, one: str, other: str) -> None:
    assert normalise(one, language) == normalise(other, language)


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("de", "ışık", "işik"),
        ("en", "new york", "newyork"),
        ("zh", "new york", "newyork"),
        ("ko", "오늘 밤", "오늘밤"),
        ("es", "ano", "año"),
        ("de", "schon", "schön"),
        ("fa", "9", "۹"),
        ("en", "9.30", "930"),
        ("en", ".", ""),
        ("th", "แก", "เก"),
        ("ml", "ന", "ൻ"),
    ],
)
def test_what_reads_differently_stays_apart(language: str, one: str, other: str) -> None:
    assert normalise(one, language) != normalise(other, language)


TEXT = st.text("aeiİıIςΣß\u0301\u0307\u0308\u200d\u200bé가각ﬁ５：。. ന്ൻറนำ้ําเ東 京្ដեւվ", max_size=10)


@pytest.mark.parametrize("language", ["de", "tr", "el", "hy"])
@given(text=TEXT)
def test_encodings_of_one_text_are_equal(language: str, text: str) -> None:
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert fold(unicodedata.normalize(form, text), language) == fold(text, language)
