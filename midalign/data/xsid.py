"""xSID 0.7: utterances to an assistant in 19 languages and dialects.

The publisher corrects the set from time to time, so a copy that differs from the release is accepted, with a
warning and under its own digest.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from midalign.data import cache, lines
from midalign.data.archive import members
from midalign.data.items import TaggedItem
from midalign.errors import DataError, TaskError, unknown_name
from midalign.languages import languages, languages_of

LICENCE = "CC BY-SA 4.0"
CITATION = "van der Goot et al. 2021, https://arxiv.org/abs/2105.07316"
LEARNED_SPLIT: str | None = None
SHOT_SPLIT = "validation"  # most languages have no training split
PARALLEL = False
SPLITS = {"train": "train", "validation": "valid", "test": "test"}
FILES = cache.FileSet("xsid")
"""The files at commit 761d926 of github.com/mainlp/xsid."""
SOURCE = lines.LineFiles(
    FILES,
    "https://raw.githubusercontent.com/mainlp/xsid/761d926c3f2e9f6bea13192d2f39cec1d04d9777/data/xSID-0.7/{file}",
)
TRAIN = "en.train.conll"
"""The only training file, optional. It is not downloaded, because there is no digest to verify it."""

LABELS = [
    "album",
    "artist",
    "best_rating",
    "condition_description",
    "condition_temperature",
    "cuisine",
    "datetime",
    "entity_name",
    "facility",
    "genre",
    "location",
    "movie_name",
    "movie_type",
    "music_item",
    "object_location_type",
    "object_name",
    "object_part_of_series_type",
    "object_select",
    "object_type",
    "party_size_description",
    "party_size_number",
    "playlist",
    "rating_unit",
    "rating_value",
    "recurring_datetime",
    "reference",
    "reference-part",
    "reminder/todo",
    "restaurant_name",
    "restaurant_type",
    "served_dish",
    "service",
    "sort",
    "track",
    "weather/attribute",
]
"""The slots of the release."""

COMMENT = re.compile(r"#\s*([\w-]+)\s*[:=](.*)")
TAG = re.compile(r"O|([BI])-(\S+)")


def items(language: str, split: str) -> list[TaggedItem]:
    """Return the items of a language and split in file order. Downloads them at first use.

    Ids consist of language and position. The publisher's ids are not unique in Lithuanian and missing in
    English. Positions do not match across languages: `de_ba` has 148 of 500 items at the position of their
    English original, `ja` half of them. So no two languages share ids, and none is resampled with another. A
    ";" (in one Norwegian title) becomes ",", because answers separate slots by ";".

    Raises TaskError for an unknown language or split, and DataError if the data is missing or altered.
    """
    file = _file(language, split)
    path = FILES.path(file)
    if not path.is_file() and file != TRAIN:
        SOURCE.fetch(file)
    parsed = parse_conll(FILES.read(file), str(path), unique=False)
    return [replace(item, id=f"{language}-{item.id}") for item in parsed]


def splits(language: str) -> list[str]:
    """Return the splits of a language. Only English has a training split."""
    return [split for split in SPLITS if split != "train" or language == "en"]


def labels(kind: Literal["intent", "slot"]) -> list[str]:
    """Return all slots, the same in every language. Raises TaskError for intents, which no task asks for."""
    if kind != "slot":
        raise TaskError("midalign has no list of xSID's intents. Only its slots have tasks")
    return LABELS


def digest(language: str, split: str) -> str:
    """Return the sha256 of a split: of the added copy if there is one, else of the published file."""
    return FILES.expected(_file(language, split))[1]


def add(path: Path) -> tuple[list[str], list[str]]:
    """Store the `<language>.<split>.conll` files of a file, folder or archive; returns (added, missing).

    Byte order marks and carriage returns are dropped. Of several files with the same name, as in the
    publisher's repository with all its versions, the published one is taken. Raises DataError with file and
    line for malformed content, and if there are no files.
    """
    contents: dict[str, bytes] = {}
    for name, content in members(path, lambda name: name in FILES.digests or name == TRAIN):
        content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
        if name not in contents or FILES.published(name, content):
            contents[name] = content
    if not contents:
        raise DataError(f"{path} holds no file of xSID; expected files such as en.valid.conll")
    for name, content in contents.items():
        try:
            text = content.decode("utf-8")
        except UnicodeError as error:
            raise DataError(f"{path}, {name}: not UTF-8 ({error})") from error
        if name != TRAIN:  # checked when it is read
            parse_conll(text, f"{path}, {name}", unique=not FILES.published(name, content))
    for name, content in contents.items():
        FILES.keep(name, content, str(path))
    return list(contents), [name for name in FILES.digests if not FILES.path(name).is_file()]


def parse_conll(text: str, source: str, *, unique: bool) -> list[TaggedItem]:
    """Return the items of a file.

    A file has comments such as `# text = ...` or `# text: ...`, then rows of index, word, intent and BIO tag.
    An empty line separates items. The utterance is the comment `text` if it spells the words (ignoring
    blanks). Otherwise, which concerns one item of the release, it is the words joined by blanks.

    Args:
        text: the content of the file.
        source: its name, for errors.
        unique: whether to reject duplicate ids.

    Raises DataError with `source` and line.
    """
    items: list[TaggedItem] = []
    seen: dict[str, int] = {}
    comments: dict[str, str] = {}
    rows: list[tuple[str, str, str]] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        where = f"{source}, line {number}"
        if line.startswith("#") and "\t" not in line:
            if rows:
                raise DataError(f"{where}: a comment among the words; expected an empty line before it")
            if match := COMMENT.match(line):
                comments[match[1]] = match[2].strip()
        elif line.strip():
            rows.append(_row(line, rows, where))
        elif rows:
            id = comments.get("id")
            if unique and id is not None and seen.setdefault(id, number) != number:
                raise DataError(
                    f"{where}: duplicate id {id} of the item above; the item above line {seen[id]} has it too"
                )
            items.append(_item(str(len(items) + 1), comments, rows))
            comments, rows = {}, []
        elif comments:
            raise DataError(f"{where}: an item without words")
    if not items:
        raise DataError(f"{source} holds no item")
    return items


def _row(line: str, before: list[tuple[str, str, str]], where: str) -> tuple[str, str, str]:
    """Parse a row to (word, intent, tag)."""
    fields = line.split("\t")
    if len(fields) != 4:
        raise DataError(
            f"{where}: {len(fields)} columns; expected 4, separated by tabs: index, word, intent, slot"
        )
    index, word, intent, tag = (field.strip() for field in fields)
    if index != str(len(before) + 1):
        raise DataError(f"{where}: word {index!r} where word {len(before) + 1} was expected")
    match = TAG.fullmatch(tag)
    if not match:
        raise DataError(f"{where}: the tag {tag!r}; expected O, B-<slot> or I-<slot>")
    last = before[-1][2] if before else "O"
    if match[1] == "I" and last[2:] != match[2]:
        raise DataError(f"{where}: {tag} after {last}; a slot begins with B-{match[2]}")
    return word.replace(";", ","), intent, tag


def _item(id: str, comments: dict[str, str], rows: list[tuple[str, str, str]]) -> TaggedItem:
    words = [word for word, _, _ in rows]
    spelled = ["".join(word.split()) for word in words]
    utterance = comments.get("text", "").replace(";", ",")
    if "".join(utterance.split()) != "".join(spelled):
        utterance = " ".join(word for word in words if word)
    spans = _spans([tag for _, _, tag in rows])
    places = [i for i, character in enumerate(utterance) if not character.isspace()]
    ends = [0]
    for letters in spelled:
        ends.append(ends[-1] + len(letters))
    values = [
        utterance[places[ends[start]] : places[ends[end] - 1] + 1] if ends[start] < ends[end] else ""
        for _, start, end in spans
    ]
    slots = tuple((label, value) for (label, _, _), value in zip(spans, values, strict=True))
    return TaggedItem(
        id=id,
        intent=comments.get("intent", rows[0][1]),
        utterance=utterance,
        annotated=_annotated(words, spans),
        slots=slots,
        words=tuple(words),
        spans=tuple(spans),
    )


def _spans(tags: list[str]) -> list[tuple[str, int, int]]:
    """Return (label, first word, end) of the spans."""
    starts = [i for i, tag in enumerate(tags) if tag.startswith("B")]
    return [
        (
            tags[start][2:],
            start,
            next((i for i in range(start + 1, len(tags)) if tags[i][0] != "I"), len(tags)),
        )
        for start in starts
    ]


def _annotated(words: list[str], spans: list[tuple[str, int, int]]) -> str:
    """Write the annotation as MASSIVE does."""
    shown = list(words)
    for label, start, end in spans:
        shown[start] = f"[{label} : {shown[start]}"
        shown[end - 1] += "]"
    return " ".join(word for word in shown if word)


def _file(language: str, split: str) -> str:
    if language not in languages_of("xsid"):
        raise TaskError(unknown_name("xSID", "language", language, languages_of("xsid")))
    if split not in SPLITS:
        raise TaskError(f"No split {split!r}; expected one of {', '.join(SPLITS)}")
    file = f"{languages()[language].codes['xsid']}.{SPLITS[split]}.conll"
    if split == "train" and file != TRAIN:
        raise TaskError(f"xSID has no training split of {language!r}, only one of English ({TRAIN})")
    if split == "train" and not FILES.path(file).is_file():
        raise TaskError(
            f"xSID's training split ({TRAIN}) is not downloaded, because midalign has no digest to verify it "
            f"with. Download {SOURCE.url.format(file=TRAIN)} and add it: {FILES.remedy}"
        )
    return file
