"""Read the text that the mini base is trained on, without any text that evaluates models."""

import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LANGUAGES = ("en", "es", "ru", "zh", "de", "tr", "hi", "fr", "id", "ja")
UNSPACED = ("zh", "ja")
MASSIVE_LOCALES = dict(
    zip(
        LANGUAGES,
        ("en-US", "es-ES", "ru-RU", "zh-CN", "de-DE", "tr-TR", "hi-IN", "fr-FR", "id-ID", "ja-JP"),
        strict=True,
    )
)
TATOEBA_CODES = dict(
    zip(LANGUAGES[1:], ("spa", "rus", "cmn", "deu", "tur", "hin", "fra", "ind", "jpn"), strict=True)
)
TATOEBA_HELD_OUT = 100
"""Pairs per language at the end of each Tatoeba file that stay unseen, for retrieval on Tatoeba."""
FLORES_LINES = 2009
"""Lines at the end of each of ALMA's files that come from FLORES-200 (dev and devtest)."""

Meaning = dict[str, str]
"""One sentence in several languages, by language code."""


@dataclass(frozen=True)
class Corpus:
    """Training text per language, and sentences that exist in several languages."""

    sentences: dict[str, list[str]]
    massive: dict[str, list[str]]
    """Utterances of MASSIVE's training partition, part of `sentences`."""
    mini: dict[str, list[str]]
    """Utterances of the mini benchmark's training split, part of `sentences`."""
    meanings: list[Meaning]
    mini_meanings: list[Meaning]
    """Sentences of the mini benchmark, part of `meanings`."""
    counts: dict[str, dict[str, int]]
    """Sentences per source and language, in the order of the model card."""
    excluded: int
    """Sentences that were dropped because they equal a held-out text."""


def text_key(text: str) -> str:
    """Return the letters and digits of a text, case-folded: texts that differ in punctuation are equal."""
    return "".join(character for character in text.casefold() if character.isalnum())


def mini_utterances(language: str, split: str) -> list[str]:
    """Return the mini benchmark's utterances with `[slot : value]` reduced to the value."""
    file = ROOT / "midalign" / "data" / "mini" / language / f"{split}.tsv"
    rows = [line.split("\t") for line in file.read_text("utf-8").splitlines()[1:]]
    return [re.sub(r"\[\w+ : ([^\]]*)\]", r"\1", annotated) for _, _, annotated in rows]


def massive_utterances(data: Path, language: str) -> Iterator[tuple[str, str, str]]:
    """Yield (partition, id, utterance) of MASSIVE. Annotations are not read."""
    file = data / "massive" / "1.1" / "data" / f"{MASSIVE_LOCALES[language]}.jsonl.xz"
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row["partition"], row["id"], row["utt"].strip()


def archive_lines(archive: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (file name, lines) of the text files of a tar.xz archive."""
    with tarfile.open(archive, "r:xz") as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                text = io.TextIOWrapper(file, "utf-8", errors="replace")
                yield member.name.rpartition("/")[2], [line.strip() for line in text]


def held_out_texts(data: Path) -> Iterator[str]:
    """Yield every development and test text of midalign's task families that is available in `data`.

    MASSIVE, the mini benchmark, NTREX, WMT23, Universal NER, FLORES (by way of ALMA) and the last Tatoeba
    pairs. xSID is not in `data`.
    """
    for language in LANGUAGES:
        for split in ("dev", "test"):
            yield from mini_utterances(language, split)
        for partition, _, utterance in massive_utterances(data, language):
            if partition != "train":
                yield utterance
    for name, lines in archive_lines(data / "tatoeba" / "tatoeba-v1.tar.xz"):
        if name.split("-")[0].removeprefix("tatoeba.") in TATOEBA_CODES.values():
            yield from lines[-TATOEBA_HELD_OUT:]
    for archive in ("ntrex/ntrex-128", "wmt23/wmt23"):
        for _, lines in archive_lines(data / f"{archive}.tar.xz"):
            yield from lines
    for _, lines in archive_lines(data / "alma" / "alma-human.tar.xz"):
        for line in lines[-FLORES_LINES:]:
            yield from re.split(r"\t", line)
    for name, lines in archive_lines(data / "uner" / "uner.tar.xz"):
        if "train" not in name:
            yield from (line.removeprefix("# text = ") for line in lines if line.startswith("# text = "))


def read_corpus(data: Path) -> Corpus:
    """Read all training text below `data` and drop what equals a held-out text."""
    held_out = {text_key(text) for text in held_out_texts(data)}
    held_out.discard("")
    sources: dict[str, dict[str, list[str]]] = {
        name: {language: [] for language in LANGUAGES}
        for name in ("MASSIVE, training partition", "mini benchmark, training split",
                     "Common Voice", "Leipzig (lingua)", "Tatoeba")
    }  # fmt: skip
    massive, mini, common_voice, leipzig, tatoeba = sources.values()
    meanings: dict[str, Meaning] = {}
    for language in LANGUAGES:
        for partition, item, utterance in massive_utterances(data, language):
            if partition == "train":
                massive[language].append(utterance)
                meanings.setdefault(f"massive {item}", {})[language] = utterance
        mini[language] = mini_utterances(language, "train")
        for number, utterance in enumerate(mini[language]):
            meanings.setdefault(f"mini {number}", {})[language] = utterance
    voice_files = {("zh-CN" if language == "zh" else language) + ".txt": language for language in LANGUAGES}
    for name, lines in archive_lines(data / "text" / "common-voice.tar.xz"):
        if name in voice_files:
            common_voice[voice_files[name]] += lines
    for name, lines in archive_lines(data / "text" / "lingua-sentences.tar.xz"):
        if name.removesuffix(".txt") in LANGUAGES:
            leipzig[name.removesuffix(".txt")] += lines
    files = dict(archive_lines(data / "tatoeba" / "tatoeba-v1.tar.xz"))
    for language, code in TATOEBA_CODES.items():
        sides = (files[f"tatoeba.{code}-eng.{code}"], files[f"tatoeba.{code}-eng.eng"])
        for foreign, english in list(zip(*sides, strict=True))[:-TATOEBA_HELD_OUT]:
            tatoeba[language].append(foreign)
            tatoeba["en"].append(english)
            meanings.setdefault(f"tatoeba {text_key(english)}", {"en": english})[language] = foreign

    def allowed(texts: Iterable[str]) -> list[str]:
        return [text for text in dict.fromkeys(texts) if text and text_key(text) not in held_out]

    kept = {name: {language: allowed(texts) for language, texts in by_language.items()}
            for name, by_language in sources.items()}  # fmt: skip
    every = {language: allowed(text for source in sources.values() for text in source[language])
             for language in LANGUAGES}  # fmt: skip
    read = {language: {text for source in sources.values() for text in source[language]}
            for language in LANGUAGES}  # fmt: skip
    clean = {
        name: {
            language: text for language, text in meaning.items() if text and text_key(text) not in held_out
        }
        for name, meaning in meanings.items()
    }
    clean = {name: meaning for name, meaning in clean.items() if len(meaning) > 1}
    return Corpus(
        sentences=every,
        massive={language: allowed(massive[language]) for language in LANGUAGES},
        mini={language: allowed(mini[language]) for language in LANGUAGES},
        meanings=list(clean.values()),
        mini_meanings=[meaning for name, meaning in clean.items() if name.startswith("mini ")],
        counts={name: {language: len(texts) for language, texts in by_language.items()}
                for name, by_language in kept.items()},
        excluded=sum(len(read[language]) - len(every[language]) for language in LANGUAGES),
    )  # fmt: skip
