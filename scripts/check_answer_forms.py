"""Print what right answers score in other forms: capitals, Unicode encodings, punctuation.

usage: python scripts/check_answer_forms.py [--every N]      (test splits of the data sets in the cache)

One line per task family and language, one column per form, each the family's headline metric. 1.000 is
expected everywhere, as a fair reader sees the same answer in every form. Other figures are listed at the end.
"""

import argparse
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from midalign.data import massive, mini, uner, xsid
from midalign.errors import DataError
from midalign.families import family, slot, slot_spans, structured
from midalign.languages import languages
from midalign.metrics import scorer

Form = Callable[[str, str], str]
"""Function of a value and its language that returns the value as another writer would write it."""

UNSPACED = ("ja", "zh", "zh_cn", "zh_tw", "th", "km", "my", "lo")
"""Languages written without blanks between words."""

UNNEEDED = re.compile(r"(?<![0-9A-Za-zÀ-ɏ.,·])\s+|\s+(?![0-9A-Za-zÀ-ɏ.·])")
"""Blanks except those between words and numbers in Latin script, as in "new york", which no writer drops."""

FULL_WIDTH = {ord(mark): chr(ord(mark) + 0xFEE0) for mark in "!\"'(),-./:?"}
ASCII = str.maketrans("‘’“”«»„–—‐‑。、，．：！？（）؟،۔〜", '\'\'"""""----.,,.:!?()?,.~')
ACCENTS = ("\u0301", "\u0300", "\u0342")


def capitals(text: str, language: str) -> str:
    """Return a text in capitals by the rules of the language (CLDR's special casing)."""
    if language in ("tr", "az"):
        text = text.replace("i̇", "i").replace("i", "İ").replace("ı", "I")
    if language == "hy":
        text = text.replace("և", "ԵՎ")
    if language == "lt":
        text = text.replace("i̇", "i")
    upper = text.upper()
    if language == "el":  # capitals lose the tonos, and keep the dialytika
        upper = "".join(letter for letter in unicodedata.normalize("NFD", upper) if letter not in ACCENTS)
    return unicodedata.normalize("NFC", upper)


def initials(text: str, upper: Form, language: str) -> str:
    """Return a text with a capital at the start of each word."""
    return " ".join(upper(word[:1], language) + word[1:] for word in text.split(" "))


def initial(letter: str, language: str) -> str:
    """Return a letter as the language capitalises it at the start of a word."""
    if language in ("tr", "az") and letter == "i":
        return "İ"
    return "Եվ" if language == "hy" and letter == "և" else letter.title()


def without_format(text: str, language: str) -> str:
    """Return a text without zero-width and other format characters."""
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


FORMS: dict[str, Form] = {
    "as is": lambda text, language: text,
    "capitals": capitals,
    "CAP default": lambda text, language: text.upper(),
    "initials": lambda text, language: initials(text, initial, language),
    "Ini default": lambda text, language: text.title(),
    "lower": lambda text, language: text.lower(),
    "no Cf": without_format,
    "NFC": lambda text, language: unicodedata.normalize("NFC", text),
    "NFD": lambda text, language: unicodedata.normalize("NFD", text),
    "NFKC": lambda text, language: unicodedata.normalize("NFKC", text),
    "NFKD": lambda text, language: unicodedata.normalize("NFKD", text),
    "full width": lambda text, language: text.translate(FULL_WIDTH),
    "ASCII": lambda text, language: text.translate(ASCII),
    "no blanks": lambda text, language: UNNEEDED.sub("", text) if language in UNSPACED else text,
    "stop": lambda text, language: text,
    "no stop": lambda text, language: text.rstrip(".。।۔።։။។") or text,
}
"""Forms by the heading of the table. A `stop` ends the answer, not every value."""


def slot_answer(doc: Mapping[str, Any], form: str) -> str:
    """Return the right answer `slot: value; slot: value` in a form; its separators are full width too."""
    language, change = doc["language"], FORMS[form]
    between, colon = ("；", "：") if form == "full width" else ("; ", ": ")
    pairs = [f"{label}{colon}{change(value, language)}" for label, value in json.loads(doc["slots"])]
    answer = between.join(pairs) or "None"
    return answer + ("." if form == "stop" else "")


def json_answer(doc: Mapping[str, Any], form: str) -> str:
    """Return the right answer in JSON with its texts in a form; the JSON itself has one form only."""
    answer = json.loads(doc["target"])
    key, spans = ("text", answer.get("entities")) if "entities" in answer else ("value", answer["arguments"])
    for span in spans:
        span[key] = FORMS[form](span[key], doc["language"])
    if form == "stop" and spans:
        spans[-1][key] += "."
    return json.dumps(answer, ensure_ascii=False)


def documents() -> Iterator[tuple[str, str, Callable[[], list[dict[str, Any]]]]]:
    """Yield the data set, the language or treebank, and a reader of its test documents."""
    for code, row in languages().items():
        if row.codes["massive"]:
            yield (
                "slot massive",
                code,
                lambda code=code: [
                    slot.slot_document(item, "massive", code) for item in massive.items(code, "test")
                ],
            )
            yield (
                "structured massive",
                code,
                lambda code=code: [
                    structured.call_document(item, "massive", code) for item in massive.items(code, "test")
                ],
            )
        if row.codes["mini"]:
            yield (
                "slot mini",
                code,
                lambda code=code: [
                    slot.slot_document(item, "mini", code) for item in mini.items(code, "test")
                ],
            )
            yield (
                "structured mini",
                code,
                lambda code=code: [
                    structured.call_document(item, "mini", code) for item in mini.items(code, "test")
                ],
            )
        if row.codes["xsid"]:
            yield (
                "slot_spans xsid",
                code,
                lambda code=code: [
                    slot_spans.tagged_document(item, "xsid", code) for item in xsid.items(code, "test")
                ],
            )
    for treebank, code in uner.treebanks().items():
        yield (
            "structured uner",
            treebank,
            lambda treebank=treebank, code=code: [
                structured.entities_document(sentence, "uner", code)
                for sentence in uner.sentences(treebank, "test")
            ],
        )


def score(name: str, docs: list[dict[str, Any]], form: str) -> float:
    """Return the headline of a family for its right answers in a form."""
    scored, rooms = scorer(name), family(name)
    answer = json_answer if name == "structured" else slot_answer
    counts = np.array([rooms.counts(doc, answer(doc, form)) for doc in docs], np.int64)
    return float(scored.METRICS[scored.HEADLINE](counts.sum(0)))


def main() -> None:
    """Print the table, and every score that is not 1.000."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1, help="score every n-th item only")
    every, missing = parser.parse_args().every, dict[str, list[str]]()
    found: list[str] = []
    for source, code, read in documents():
        try:
            docs = read()[::every]
        except DataError:
            missing.setdefault(source, []).append(code)
            continue
        scores = {form: score(source.split()[0], docs, form) for form in FORMS}
        print(
            f"{source:18} {code:10}", *(f"{form} {value:.3f}" for form, value in scores.items()), flush=True
        )
        found += [f"{source} {code}: {form} {value:.4f}" for form, value in scores.items() if value < 1]
    for source, codes in missing.items():
        print(f"{source}: not in the cache for {', '.join(codes)}")
    print("\n".join(found) or "1.000 everywhere")


if __name__ == "__main__":
    main()
