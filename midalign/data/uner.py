"""Universal NER: sentences of 17 treebanks with persons, organisations and places.

Sixteen treebanks are those of release 1 without its Norwegian (NDT) and Ugnayan sets, which were not
available. Maghrebi Arabic French (Arabizi) was published after release 1. As in the publisher's experiments,
there are three types. Croatian and Serbian also mark OTH, and early English files have a bare `B-O`: both are
read as outside.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from midalign.data import lines
from midalign.data.cache import FileSet
from midalign.errors import DataError, TaskError, unknown_name
from midalign.languages import languages

LICENCE = "CC BY-SA 4.0 (all PUD sets but Swedish: 3.0)"
CITATION = "Mayhew et al. 2024, https://arxiv.org/abs/2311.09122"
LEARNED_SPLIT: str | None = None
FILES = FileSet("uner")
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
TYPES = ("LOC", "ORG", "PER")
OUTSIDE = ("O", "B-O", "B-OTH", "I-OTH")
_URL = "https://raw.githubusercontent.com/UniversalNER/UNER_{folder}/master/{{file}}"
_FOLDERS = {
    "ceb_gja": "Cebuano-GJA",
    "da_ddt": "Danish-DDT",
    "de_pud": "German-PUD",
    "en_ewt": "English-EWT",
    "en_pud": "English-PUD",
    "hr_set": "Croatian-SET",
    "pt_bosque": "Portuguese-Bosque",
    "pt_pud": "Portuguese-PUD",
    "qaf_arabizi": "Maghrebi_Arabic_French-Arabizi",
    "ru_pud": "Russian-PUD",
    "sk_snk": "Slovak-SNK",
    "sr_set": "Serbian-SET",
    "sv_pud": "Swedish-PUD",
    "sv_talbanken": "Swedish-Talbanken",
    "tl_trg": "Tagalog-TRG",
    "zh_gsd": "Chinese-GSD",
    "zh_pud": "Chinese-PUD",
}
"""The publisher's folder of each treebank."""

UNOPENED = {
    "da_ddt-ud-test.iob2": (6002,),
    "da_ddt-ud-train.iob2": (55941, 62672, 70872, 84305, 84777, 85286),
    "hr_set-ud-dev.iob2": (6707,),
    "sr_set-ud-dev.iob2": (1805, 4152),
    "sr_set-ud-train.iob2": (12126, 17489),
}
"""Lines of the published files that continue an entity without a beginning. There the tag is read as B-, as
conlleval and, by default, seqeval do. Anywhere else it is an error."""


@dataclass(frozen=True)
class Sentence:
    """One sentence: its text as published, the places of its tokens, and its entities."""

    id: str
    text: str
    tokens: tuple[tuple[int, int], ...]
    """First character and end; Arabizi's tokens may overlap or be empty."""
    spans: tuple[tuple[str, int, int], ...]
    """(type, first token, end), in order of appearance."""

    @property
    def entities(self) -> list[tuple[str, str]]:
        """(type, text) of the spans, as written in the text."""
        places = ((type, self.tokens[first][0], self.tokens[end - 1][1]) for type, first, end in self.spans)
        return [(type, self.text[start:stop]) for type, start, stop in places]


@cache
def treebanks() -> dict[str, str]:
    """Return the language code of each treebank, in the order of the table of languages."""
    return {name: code for code, row in languages().items() for name in row.codes["uner"].split()}


def splits(treebank: str) -> list[str]:
    """Return the splits of a treebank. The PUD sets, Cebuano and Tagalog are test sets only."""
    return [split for split, theirs in SPLITS.items() if f"{treebank}-ud-{theirs}.iob2" in FILES.digests]


def shots_from(language: str) -> tuple[str, str]:
    """Return the treebank and split that few-shot examples of a language are drawn from.

    That is the training split of one of the language's treebanks. If none has one, it is the validation split
    of the English EWT.
    """
    names = (name for name, code in treebanks().items() if code == language)
    return next(((name, "train") for name in names if "train" in splits(name)), ("en_ewt", "validation"))


def add(path: Path) -> tuple[list[str], list[str]]:
    """Store the files found in a file, folder or archive. Returns (added, missing) file names."""
    return _source("en_ewt").add(path)


def sentences(treebank: str, split: str) -> list[Sentence]:
    """Return the sentences of a treebank's split in file order. Downloads them at first use.

    Raises TaskError for an unknown treebank or split, and DataError if a file is missing, altered or
    malformed.
    """
    file = _file(treebank, split)
    return parse_iob2(_source(treebank).read(file), str(FILES.path(file)), UNOPENED.get(file, ()))


def digest(treebank: str, split: str) -> str:
    """Return the sha256 of a split's file."""
    return FILES.digests[_file(treebank, split)][1]


def _file(treebank: str, split: str) -> str:
    if treebank not in _FOLDERS:
        raise TaskError(unknown_name("UNER", "treebank", treebank, _FOLDERS))
    if split not in splits(treebank):
        raise TaskError(f"UNER's {treebank} has no split {split!r}; it has {', '.join(splits(treebank))}")
    return f"{treebank}-ud-{SPLITS[split]}.iob2"


def _source(treebank: str) -> lines.LineFiles:
    return lines.LineFiles(FILES, _URL.format(folder=_FOLDERS[treebank]))


def parse_iob2(rows: list[str], source: str, unopened: tuple[int, ...] = ()) -> list[Sentence]:
    """Read IOB2 with five columns: number, token, tag, the tag before adjudication, annotator.

    Args:
        rows: the lines of a file.
        source: its name, for errors.
        unopened: numbers of lines at which an I- tag may begin an entity.

    Raises DataError with file and line for too few columns, a tag that is not IOB2, an I- tag that continues
    nothing, a sentence without `# sent_id` or `# text`, and a duplicate sentence id.
    """
    sentences: dict[str, Sentence] = {}
    comments: dict[str, str] = {}
    tokens: list[tuple[str, str]] = []
    for number, row in enumerate([*rows, ""], start=1):
        where = f"{source}, line {number}"
        if row.startswith("#"):
            key, _, value = row.removeprefix("#").partition("=")
            comments[key.strip()] = value.strip()
        elif row:
            columns = row.split("\t")
            if len(columns) < 5:
                raise DataError(f"{where}: found {len(columns)} columns ({row[:40]!r}), expected 5")
            before = tokens[-1][1] if tokens else "O"
            tokens.append((columns[1], _tag(columns[2], before, where, number in unopened)))
        elif tokens:
            id = comments.get("sent_id", "")
            if not id or "text" not in comments:
                raise DataError(f"{where}: the sentence above has no '# sent_id =' or no '# text ='")
            if id in sentences:
                raise DataError(f"{where}: duplicate sentence id {id!r}")
            sentences[id] = _sentence(id, comments["text"], tokens, where)
            comments, tokens = {}, []
    return list(sentences.values())


def _tag(tag: str, before: str, where: str, may_begin: bool) -> str:
    """Check a tag and return it in IOB2: O, or B- or I- with one of TYPES."""
    if tag in OUTSIDE:
        return "O"
    position, dash, type = tag.partition("-")
    if position not in ("B", "I") or not dash or type not in TYPES:
        raise DataError(f"{where}: found the tag {tag!r}, expected O or B- or I- with {', '.join(TYPES)}")
    if position == "I" and before[2:] != type:
        if not may_begin:
            raise DataError(f"{where}: {tag} after {before} continues nothing; expected B-{type}")
        return f"B-{type}"
    return tag


def _sentence(id: str, text: str, tokens: list[tuple[str, str]], where: str) -> Sentence:
    places = _places(text, [token for token, _ in tokens])
    spans: list[tuple[str, int, int]] = []
    for index, (_, tag) in enumerate(tokens):
        if tag.startswith("B-"):
            spans.append((tag[2:], index, index + 1))
        elif tag.startswith("I-"):
            type, first, _ = spans[-1]
            spans[-1] = (type, first, index + 1)
    sentence = Sentence(id, text, places, tuple(spans))
    if not all(value.strip() for _, value in sentence.entities):
        raise DataError(f"{where}: an entity of sentence {id!r} does not occur in its text")
    return sentence


def _places(text: str, tokens: list[str]) -> tuple[tuple[int, int], ...]:
    """Return the first character and end of each token in the text.

    Some tokens of Arabizi do not line up with the text: a word's ending repeats its article ("el", "elnehd"),
    or the token is missing in the text. Such a token is searched from the previous token on. If it is not
    found, its place is empty.
    """
    places: list[tuple[int, int]] = []
    begin = end = 0
    for token in tokens:
        start = end + len(text[end:]) - len(text[end:].lstrip())
        if not text.startswith(token, start):
            start = text.find(token, begin)
        begin, end = (start, start + len(token)) if start >= 0 else (end, end)
        places.append((begin, end))
    return tuple(places)
