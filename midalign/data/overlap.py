"""Find test texts that the training text contains, exactly or nearly.

Texts are compared in NFKC and case-folded, by their letters (with marks) and digits only. Language codes are
ignored: a copy under another code is a copy. A second key also folds spelling. It drops accents, Hebrew
points, Arabic vowels, hamza above letters, nuktas, and letters that are apostrophes (Uzbek oʻ). It unifies
letters that keyboards and writers confuse (Persian ی and ک, Arabic ي and ك; ı and i), the digits of all
scripts, and sequences that look alike. Lengths count the characters of the folded text, wide ones (Chinese,
Japanese, Korean) twice. A text of a test split is

- *exact* if it equals a training text;
- *folded* if it is not exact and equals a training text after folding;
- *short* if it is exact or folded and shorter than SHORT, about seven words of English: two people can write
  "where is the nearest gas station" independently. Short texts count as overlap only if they are more than
  COMMON of the split's texts;
- *near* if it is neither exact nor folded, has a length of at least NEAR, and at least CONTAINED of its
  shingles (all substrings of length SHINGLE of the folded text) occur in the training text. They may come
  from different sentences, so that split and merged sentences are found too. The share is that of Chowdhery
  et al. 2022 (PaLM, section 8) for 8-grams of words.

Traditional and simplified Chinese, and two scripts of one language, stay different.

Shingles are not sampled. They are compared by 64-bit hashes: a shingle is mistaken for one of n others with
probability n / 2^64 (6e-13 for ten million), and a near text needs at least 24 of them. So false positives
come from the rule, not from the hashes. SHINGLE, SHORT and the width were chosen on MASSIVE, Tatoeba, NTREX,
WMT23, ALMA and mini (SHORT is above their longest coincidence, 30 letters). scripts/benchmarks/overlap.py
shows that there are hardly any false positives among these data sets, which says little about other data.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from midalign.files import without_folders
from midalign.metrics.folding import ALIKE, DRAWN_ALIKE, INVISIBLE

SHINGLE = 16
NEAR = 48
CONTAINED = 0.7
SHORT = 32
COMMON = 0.05
EXAMPLES = 3
THREADS = 2

_BASE = np.uint64(0xD6E8FEB86659FD93)
"""Base of the polynomial hashes. It is odd: powers of an even number would vanish modulo 2^64."""

OPTIONAL_MARKS = re.compile(
    "["
    "\u0300-\u036f\u0483-\u0487\u1ab0-\u1aff\u1dc0-\u1dff\ufe20-\ufe2f"  # Latin, Greek, Cyrillic
    "\u0591-\u05bd\u05bf-\u05c7"  # Hebrew points
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed"  # Arabic vowels, hamza above letters, tatweel
    "\u02b9-\u02c1\u02c6-\u02d1\u02ec\u02ee\ua78c"  # letters that are apostrophes or accents
    "]"
)
"""Marks and modifier letters that writers omit or replace with an apostrophe."""

NUKTA = 7
"""Combining class of the dot that makes letters of loan words in scripts of India."""

ALIKE_LETTERS = {
    **dict.fromkeys("يىے", "ی"),
    "ك": "ک",
    **dict.fromkeys("ةہھە", "ه"),
    "ٱ": "ا",
    **{"ı": "i", "đ": "d", "ł": "l", "ø": "o"},
    "ँ": "ं",
}
"""Letters that keyboards and writers confuse."""


@dataclass(frozen=True)
class SplitText:
    """The sentences of one language in a split of a data set, in the order of its items."""

    dataset: str
    """Name of the data set (`alma` for the training split of WMT23's tasks), or the path of a user's file."""
    split: str
    language: str
    sentences: Sequence[str]
    tasks: tuple[str, ...] = ()
    """Tasks that score or train on the text, if collected."""


class OverlapModel(BaseModel):
    """A part of a result. Unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Example(OverlapModel):
    """One test text that overlaps."""

    item: int
    """Position in the test split."""
    text: str
    training: str
    """The equal training text, or the training sentence with most of the shingles."""
    contained: float
    """Share of the shingles that occur in the training text, 1 for equal texts."""


class Overlap(OverlapModel):
    """How much of a test text a training data set contains."""

    training: str
    """Data set."""
    test: str
    """Data set."""
    split: str
    language: str
    texts: int
    exact: int
    folded: int = 0
    """Equal after folding only. 0 in older manifests, when texts were not folded."""
    short: int
    """Number of short texts among the exact and folded ones."""
    near: int
    """Number of near texts among the others."""
    tasks: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    """Up to EXAMPLES: at least one equal text if there is any, then the least contained near ones."""

    @property
    def texts_found(self) -> int:
        """Number of exact, folded and near texts, short ones included."""
        return self.exact + self.folded + self.near

    @property
    def found(self) -> int:
        """Number of texts that count as overlap."""
        common = self.short <= COMMON * self.texts
        return self.texts_found - (self.short if common else 0)

    @property
    def sentence(self) -> str:
        """The overlap in words: `alma holds 1,997 of 1,997 texts of ntrex test, en`."""
        return (
            f"{self.training} holds {self.texts_found:,} of {self.texts:,} texts of "
            f"{self.test} {self.split}, {self.language}"
        )

    def figures(self) -> "Overlap":
        """Return the overlap without texts, which records must not contain, and without the tasks' names."""
        return self.model_copy(update={"tasks": (), "examples": ()})

    def portable(self) -> "Overlap":
        """Return the overlap without folders of this machine in the names of data sets."""
        names = {"training": without_folders(self.training), "test": without_folders(self.test)}
        return self.model_copy(update=names)


class OverlapCheck(OverlapModel):
    """Overlap of the text a model was trained on with the text it is scored on."""

    found: list[Overlap]
    unchecked: list[str]
    """Training text that could not be compared, with the reason. Empty if everything was compared."""


@dataclass(frozen=True)
class Fingerprints:
    """Hashes of n sentences."""

    whole: np.ndarray
    """(n,) uint64, hashes of the normalised sentences."""
    lengths: np.ndarray
    """(n,) int64, lengths of the folded sentences, 0 without letters and digits."""
    folded: np.ndarray
    """(n,) uint64, hashes of the folded sentences."""
    shingles: np.ndarray
    """(m,) uint64, hashes of the shingles of all folded sentences, in order."""
    owners: np.ndarray
    """(m,) int64, the sentence of each shingle."""


class Lookup:
    """Map from hashes to the first of n sentences with each hash."""

    def __init__(self, hashes: np.ndarray, owners: np.ndarray) -> None:
        self.hashes, first = np.unique(hashes, return_index=True)
        self.owners = owners[first].astype(np.int32)
        # Most queried hashes are unknown: a table of low bits rules them out without a search.
        self.low = np.uint64((1 << max(16, (8 * len(self.hashes)).bit_length())) - 1)
        self.seen = np.zeros(int(self.low) + 1, bool)
        self.seen[self.hashes & self.low] = True

    def __call__(self, hashes: np.ndarray) -> np.ndarray:
        """Return (m,) the sentence of each hash, -1 if there is none."""
        maybe = np.flatnonzero(self.seen[hashes & self.low])
        # In ascending order, the search accesses memory sequentially.
        maybe = maybe[np.argsort(hashes[maybe])]
        places = np.searchsorted(self.hashes, hashes[maybe])
        places[places == len(self.hashes)] = 0
        hits = self.hashes[places] == hashes[maybe] if len(self.hashes) else np.zeros(0, bool)
        found = np.full(len(hashes), -1)
        found[maybe[hits]] = self.owners[places[hits]]
        return found


class TrainingIndex:
    """Lookups of the text of one training split."""

    def __init__(self, training: Sequence[SplitText]) -> None:
        self.dataset, self.split = training[0].dataset, training[0].split
        self.sentences = [sentence for text in training for sentence in text.sentences]
        prints = fingerprints(self.sentences)
        self.equal = Lookup(prints.whole, np.arange(len(self.sentences)))
        self.equal_folded = Lookup(prints.folded, np.arange(len(self.sentences)))
        self.holding = Lookup(prints.shingles, prints.owners)


def find_overlaps(training: Sequence[SplitText], test: Sequence[SplitText]) -> list[Overlap]:
    """Return the overlap of each test text with each training split, if there is any, short texts included.

    Different splits of one data set are not compared with each other: `repeated` does that. A split is
    compared with itself. Takes about 30 bytes of memory per distinct shingle of the training text.
    """
    by_split: dict[tuple[str, str], list[SplitText]] = {}
    for text in training:
        by_split.setdefault((text.dataset, text.split), []).append(text)

    def against_all(text: SplitText) -> list[Overlap]:
        prints = fingerprints(text.sentences)
        compared = (index for index in indices if index.dataset != text.dataset or index.split == text.split)
        return [_overlap(index, text, prints) for index in compared]

    with ThreadPoolExecutor(THREADS) as pool:  # numpy releases the GIL for most of the work
        indices = list(pool.map(TrainingIndex, by_split.values()))
        overlaps = [overlap for of_text in pool.map(against_all, test) for overlap in of_text]
    return [overlap for overlap in overlaps if overlap.texts_found]


def _overlap(known: TrainingIndex, text: SplitText, prints: Fingerprints) -> Overlap:
    # Classify the sentences, as the module's docstring defines it.
    has_letters = prints.lengths > 0
    exact = (known.equal(prints.whole) >= 0) & has_letters
    equal = known.equal_folded(prints.folded)  # exact texts included
    folded = (equal >= 0) & has_letters & ~exact
    holding = known.holding(prints.shingles)
    total = np.bincount(prints.owners, minlength=len(prints.lengths))
    held = np.bincount(prints.owners, weights=holding >= 0, minlength=len(prints.lengths))
    contained = np.divide(held, total, out=np.zeros(len(total)), where=total > 0)
    near = ~exact & ~folded & (prints.lengths >= NEAR) & (contained >= CONTAINED)

    def example(item: int) -> Example:
        if exact[item] or folded[item]:
            return Example(
                item=item, text=text.sentences[item], training=known.sentences[equal[item]], contained=1.0
            )
        holders = holding[(prints.owners == item) & (holding >= 0)]
        return Example(
            item=item,
            text=text.sentences[item],
            training=known.sentences[np.bincount(holders).argmax()],
            contained=round(float(contained[item]), 3),
        )

    # Examples: the longest equal texts, least likely a coincidence, and the most doubtful near ones.
    near_items = np.flatnonzero(near)
    doubtful = near_items[np.argsort(contained[near_items], kind="stable")]
    equal_items = np.flatnonzero(exact | folded)
    longest = equal_items[np.argsort(-prints.lengths[equal_items], kind="stable")]
    shown = [*longest[: max(1, EXAMPLES - len(doubtful))], *doubtful][:EXAMPLES]
    return Overlap(
        training=known.dataset,
        test=text.dataset,
        split=text.split,
        language=text.language,
        texts=len(text.sentences),
        exact=int(exact.sum()),
        folded=int(folded.sum()),
        short=int(((exact | folded) & (prints.lengths < SHORT)).sum()),
        near=int(near.sum()),
        tasks=text.tasks,
        examples=tuple(example(int(item)) for item in shown),
    )


def repeated(text: SplitText, training: Sequence[SplitText]) -> list[int]:
    """Return positions of the test texts that occur verbatim in the training text of their language."""
    learned = {s for other in training if other.language == text.language for s in other.sentences}
    return [item for item, sentence in enumerate(text.sentences) if sentence in learned]


def texts_digest(texts: Sequence[SplitText]) -> str:
    """Return the sha256 over lines "<language> TAB <sentence>", sorted by data set, split and language."""
    digest = hashlib.sha256()
    for text in sorted(texts, key=lambda text: (text.dataset, text.split, text.language)):
        digest.update("".join(f"{text.language}\t{sentence}\n" for sentence in text.sentences).encode())
    return digest.hexdigest()


def fingerprints(sentences: Sequence[str]) -> Fingerprints:
    """Return the hashes of normalised sentences, of folded sentences and of their shingles."""
    # All sentences are processed as one text, separated by line feeds.
    joined = "".join(sentence.replace("\n", " ") + "\n" for sentence in sentences)
    normalised = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", joined).casefold())
    whole = _whole(*_units(normalised))
    units, ends = _units(fold_orthography(normalised))
    # The shingles of a sentence start at each of its first length - SHINGLE + 1 places.
    starts, lengths = _segments(ends)
    counts = np.maximum(lengths - SHINGLE + 1, 0)
    owners = np.repeat(np.arange(len(lengths)), counts)
    first = np.cumsum(counts) - counts
    at = starts[owners] + np.arange(len(owners)) - first[owners]
    return Fingerprints(whole, lengths, _whole(units, ends), _windows(_mixed(units))[at], owners)


def fold_orthography(text: str) -> str:
    """Return a text with its spelling folded, as described above.

    Args:
        text: normalised and case-folded text of any languages.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    folded = decomposed.translate({ord(letter): _folded_letter(letter) for letter in set(decomposed)})
    for pattern, replacement in DRAWN_ALIKE:
        folded = pattern.sub(replacement, folded)
    return unicodedata.normalize("NFC", folded.replace("եվ", "եւ"))


def _folded_letter(letter: str) -> str:
    if letter in ALIKE_LETTERS:
        return ALIKE_LETTERS[letter]
    if letter in INVISIBLE or OPTIONAL_MARKS.match(letter):
        return ""
    if unicodedata.combining(letter) == NUKTA or unicodedata.category(letter) == "Cf":
        return ""
    digit = unicodedata.decimal(letter, None)
    return ALIKE.get(ord(letter), letter) if digit is None else str(digit)


def _units(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of letters and digits, wide ones twice, and the places of line feeds."""
    widths = np.zeros(0x110000, np.uint8)
    for character in set(text):
        widths[ord(character)] = _width(character)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    units = np.repeat(codes, widths[codes])
    return units, np.flatnonzero(units == ord("\n"))


def _segments(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where lines start, and their lengths without the line feed."""
    starts = np.concatenate([[0], ends + 1])[:-1]
    return starts, ends - starts


def _whole(units: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the hash of each line."""
    starts, lengths = _segments(ends)
    places = np.arange(len(units)) - np.repeat(starts, lengths + 1)
    powers = _BASE ** np.arange(lengths.max(initial=0) + 1, dtype=np.uint64)
    # The line feed belongs to its sentence here, so that no segment is empty.
    hashes: np.ndarray = np.add.reduceat(_mixed(units) * powers[places], starts)
    return hashes


def _width(character: str) -> int:
    if character == "\n":
        return 1
    if unicodedata.category(character)[0] not in "LMN":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _mixed(units: np.ndarray) -> np.ndarray:
    """Return 64 well-mixed bits per code point: the finaliser of SplitMix64 (Steele et al. 2014)."""
    bits = units.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = bits ^ (bits >> np.uint64(31))
    return mixed


def _windows(mixed: np.ndarray) -> np.ndarray:
    """Return the polynomial hashes, modulo 2^64, of SHINGLE numbers from each place on."""
    if len(mixed) < SHINGLE:
        return np.zeros(0, np.uint64)
    size, hashes = 1, mixed
    while size < SHINGLE:  # a power of two: each step joins two neighbours of half the length
        hashes = hashes[:-size] * _BASE ** np.uint64(size) + hashes[size:]
        size *= 2
    return hashes
