"""Collect training text and test text by name, for midalign.data.overlap to compare."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from midalign import harness
from midalign.adapter import MANIFEST, TrainingText
from midalign.data import EntityData, PairData, SlotData, TranslationData, own
from midalign.data.overlap import Overlap, OverlapCheck, SplitText, find_overlaps, repeated, texts_digest
from midalign.data.pairs import read_pairs
from midalign.data.registry import DATA_SETS, data_set
from midalign.data.segments import sides
from midalign.data.text import read_text
from midalign.errors import DataError, RecipeError, TaskError, nearest
from midalign.families import family
from midalign.languages import languages_of

FIELDS = ("source", "target", "utterance", "text")
"""Keys of a user's JSON lines whose values are text."""


def scored(tasks: Sequence[str], split: str) -> list[SplitText]:
    """Return the texts of a split of tasks or groups, both sides of a direction, each text once."""
    return _of_tasks(harness.expand(tasks, split), split)


def supervised(tasks: Sequence[str]) -> list[SplitText]:
    """Return the texts of the training splits of the tasks or groups that have one."""
    return _of_tasks(filter(harness.has_training_split, harness.expand(tasks)), "train")


def aligned(source: str, codes: Iterable[str]) -> list[SplitText]:
    """Return both sides of the pairs of a source that `align.pairs` may name, in some languages."""
    split = (source in DATA_SETS and data_set(source).LEARNED_SPLIT) or "train"
    texts = []
    for code in codes:
        pairs = read_pairs(source, code)
        for language, side in ((code, 0), ("en", 1)):
            texts.append(SplitText(source, split, language, tuple(pair[side] for pair in pairs)))
    return _distinct(texts)


def training_text(kind: Literal["task", "pairs"], source: str, languages: Sequence[str]) -> TrainingText:
    """Return a manifest's entry of a source of training text, with the digest of its sentences."""
    text = TrainingText(kind=kind, source=source, languages=tuple(languages), digest=None)
    if harness.is_stock(source):
        return text
    return text.model_copy(update={"digest": texts_digest(sentences_of(text))})


def sentences_of(text: TrainingText) -> list[SplitText]:
    """Return the current sentences of a source of training text.

    Raises DataError or TaskError if they are not available.
    """
    if text.kind == "pairs":
        return aligned(text.source, text.languages)
    return supervised(harness.training_tasks(text.source, text.languages))


def check_overlap(sources: Sequence[TrainingText] | None, scored: Sequence[SplitText]) -> OverlapCheck:
    """Compare the text that a model was trained on with the text that it is scored on.

    Training text that is not available, or that has changed since, is listed as unchecked.

    Args:
        sources: the training text, None if unknown.
        scored: the text of the evaluation.
    """
    if sources is None:
        return OverlapCheck(found=[], unchecked=[f"{MANIFEST} does not name the training text"])
    learned: list[SplitText] = []
    unchecked = []
    for source in sources:
        problem = _unknown(source)
        if problem is None:
            try:
                texts = sentences_of(source)
            except (DataError, TaskError, RecipeError):
                problem = "is not available"
            else:
                if source.digest not in (None, texts_digest(texts)):
                    problem = "has changed since training"
        if problem is None:
            learned += texts
        else:
            unchecked.append(f"{source.source} ({', '.join(source.languages)}) {problem}")
    overlaps = find_overlaps(_distinct(learned), scored)
    return OverlapCheck(found=[one.figures() for one in overlaps if one.found], unchecked=unchecked)


def _unknown(source: TrainingText) -> str | None:
    """Return why a source's sentences cannot be known, in words, or None if they can."""
    if harness.is_stock(source.source):
        return "is a task of lm-eval, whose training text is not known"
    if source.digest is None and "{language}" in source.source:
        return f"has no digest in {MANIFEST}"
    return None


def training(name: str) -> list[SplitText]:
    """Return all text that a model could learn from under a name.

    Args:
        name: a task or group (its training split), a data set with a LEARNED_SPLIT, or a user's file: JSON
            lines (the values of FIELDS) or lines of fields separated by tabs. `{language}` in its path stands
            for any language.

    Raises DataError for any other name, and for a file that cannot be read.
    """
    if name.startswith("midalign_") or own.is_own(name) or own.is_spec(name):
        return supervised([name])
    split = data_set(name).LEARNED_SPLIT if name in DATA_SETS else None
    if split is not None:
        return _of_data_set(name, split)
    if "/" in name or "." in name:
        return _of_files(name)
    known = [name for name in DATA_SETS if data_set(name).LEARNED_SPLIT]
    raise DataError(
        f"No training text {name!r}.{nearest(name, known)} Expected {', '.join(known)}, a task, or a file "
        f"of JSON lines or of lines foreign TAB English"
    )


def repeated_items(task: str, split: str) -> list[int]:
    """Return the positions of documents that occur verbatim in the training split of the task's data set.

    For a direction, one side suffices. Empty if the data set has no training split.
    """
    metadata = harness.metadata(task)
    task_family = family(metadata["family"])
    if task_family.origin(metadata, "train") != task_family.origin(metadata, split):
        return []
    try:
        learned = task_family.texts(metadata, "train")
    except TaskError:
        return []
    return sorted({item for text in task_family.texts(metadata, split) for item in repeated(text, learned)})


def repetitions(training: Sequence[SplitText], scored: Sequence[SplitText]) -> list[tuple[SplitText, int]]:
    """Return the texts of data sets that another split is learned from, with their number of repetitions.

    A repetition is a sentence that occurs verbatim in the training text of its language.
    """
    counted = []
    for text in scored:
        learned = [other for other in training if other.dataset == text.dataset and other.split != text.split]
        if learned:
            counted.append((text, len(repeated(text, learned))))
    return counted


def describe_overlaps(overlaps: Sequence[Overlap]) -> str:
    """Describe each overlap in a paragraph with counts and examples."""
    return "\n".join(line for overlap in overlaps for line in _lines(overlap))


def _lines(overlap: Overlap) -> list[str]:
    more = f" and {len(overlap.tasks) - 1:,} more" if len(overlap.tasks) > 1 else ""
    task = f" ({overlap.tasks[0]}{more})" if overlap.tasks else ""
    kinds = [f"{overlap.exact:,} exact"] if overlap.exact else []
    kinds += [f"{overlap.folded:,} spelt otherwise"] if overlap.folded else []
    kinds += [f"{overlap.short:,} of them short"] if overlap.short else []
    kinds += [f"{overlap.near:,} near"] if overlap.near else []
    lines = [f"  {overlap.sentence}{task}: {', '.join(kinds)}"]
    for example in overlap.examples:
        lines.append(f"    item {example.item}: {_cut(example.text)}")
        if example.contained < 1:
            lines.append(f"      {example.contained:.0%} of it is in: {_cut(example.training)}")
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _of_tasks(names: Iterable[str], split: str) -> list[SplitText]:
    texts = []
    for name in names:
        metadata = harness.metadata(name)
        for text in family(metadata["family"]).texts(metadata, split):
            texts.append(SplitText(text.dataset, text.split, text.language, text.sentences, (name,)))
    return _distinct(texts)


def _of_data_set(name: str, split: str) -> list[SplitText]:
    """Return all sentences of a data set's split."""
    data = data_set(name)
    if isinstance(data, PairData):
        return aligned(name, [code for code in languages_of(name) if code != "en"])
    texts = []
    if isinstance(data, SlotData):
        for code in languages_of(name):
            texts.append(SplitText(name, split, code, [item.utterance for item in data.items(code, split)]))
    elif isinstance(data, TranslationData):
        for direction in data.directions():
            segments = data.read(direction, split)
            before, after = sides(direction)
            texts.append(SplitText(name, split, before, [segment.source for segment in segments]))
            texts.append(SplitText(name, split, after, [segment.target for segment in segments]))
    elif isinstance(data, EntityData):
        for treebank, code in data.treebanks().items():
            texts.append(SplitText(name, split, code, [s.text for s in data.sentences(treebank, split)]))
    return _distinct(texts)


def _distinct(texts: Sequence[SplitText]) -> list[SplitText]:
    """Return each text once, with the tasks of all its copies: NTREX's English is in 254 directions."""
    distinct: dict[tuple[str, str, str, tuple[str, ...]], SplitText] = {}
    for text in texts:
        key = (text.dataset, text.split, text.language, tuple(text.sentences))
        tasks = (*distinct[key].tasks, *text.tasks) if key in distinct else text.tasks
        distinct[key] = SplitText(*key, tasks)
    return list(distinct.values())


def _of_files(name: str) -> list[SplitText]:
    pattern = Path(name.replace("{language}", "*"))
    files = sorted(pattern.parent.glob(pattern.name)) if "{language}" in name else [pattern]
    if not files:
        raise DataError(f"No file matches {name}, with any language in place of {{language}}")
    return [SplitText(name, "train", "", _sentences(file)) for file in files]


def _sentences(path: Path) -> list[str]:
    lines = read_text(path).split("\n")
    if path.suffix not in (".jsonl", ".json"):
        return [field.strip() for line in lines for field in line.split("\t") if field.strip()]
    return [
        text
        for number, line in enumerate(lines, start=1)
        if line.strip()
        for text in _values(path, number, line)
    ]


def _values(path: Path, number: int, line: str) -> list[str]:
    try:
        row = json.loads(line)
        values = [row[key] for key in FIELDS if isinstance(row.get(key), str)]
    except (json.JSONDecodeError, AttributeError):
        values = []
    if not values:
        raise DataError(
            f"{path}, line {number}: found {line[:60]!r}, "
            f"expected an object with text under {', '.join(FIELDS)}"
        )
    return values
