"""Generate formatting and copying exercises: skills that a base model usually learns from web text.

Every exercise is made from training sentences, made-up keys and made-up values. No label of any benchmark
occurs in them. An exercise takes (sentence, another sentence, language, random generator) and returns a
document.
"""

import json
import random
from collections.abc import Callable
from typing import Any

from .texts import UNSPACED

EOS = "<|end|>"
Exercise = Callable[[str, str, str, random.Random], str]

LONGEST_SPAN = 6  # words, or characters in languages without spaces
PUNCTUATION = " .,;:!?¡¿\"'()。，、！？「」…।*"
MARKS = (("*", "*"), ("*", "*"), ("[", "]"), ("<", ">"), ("_", "_"), ("«", "»"))


def units(sentence: str, language: str) -> list[str]:
    """Split a sentence into words, or into characters where the language writes no spaces."""
    return list(sentence) if language in UNSPACED else sentence.split()


def join_units(parts: list[str], language: str) -> str:
    """Join words or characters to a text."""
    return ("" if language in UNSPACED else " ").join(parts)


def draw_ranges(length: int, count: int, draw: random.Random) -> list[tuple[int, int]]:
    """Draw up to `count` separate ranges of at most LONGEST_SPAN units, in order."""
    cuts = sorted(draw.sample(range(length + 1), min(2 * count, (length + 1) // 2 * 2)))
    return [(start, min(end, start + LONGEST_SPAN)) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]


def strip_punctuation(text: str) -> str:
    """Return a span without the punctuation around it."""
    return text.strip(PUNCTUATION)


def draw_key(draw: random.Random) -> str:
    """Draw a made-up key such as `kotu` or `mari_sel`, which carries no meaning."""

    def word() -> str:
        syllables = range(draw.randint(1, 3))
        return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in syllables)

    return word() if draw.random() < 0.6 else f"{word()}_{word()}"


def draw_spans(sentence: str, language: str, most: int, draw: random.Random) -> list[str]:
    """Draw up to `most` spans of a sentence, in order."""
    parts = units(sentence, language)
    ranges = draw_ranges(len(parts), draw.randint(1, most), draw)
    found = [strip_punctuation(join_units(parts[start:end], language)) for start, end in ranges]
    return [span for span in found if span]


def mark_spans(
    sentence: str, language: str, most: int, mark: tuple[str, str], draw: random.Random
) -> tuple[str, list[str]]:
    """Put marks around up to `most` spans. Return the marked sentence and the spans."""
    parts, found = units(sentence, language), []
    for start, end in draw_ranges(len(parts), draw.randint(1, most), draw):
        span = strip_punctuation(join_units(parts[start:end], language))
        if span:
            parts[start] = mark[0] + parts[start]
            parts[end - 1] = parts[end - 1] + mark[1]
            found.append(span)
    return join_units(parts, language), found


def tag_spans(sentence: str, language: str, draw: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """Write made-up keys beside spans. Return the tagged sentence and the (key, span) pairs."""
    parts, pairs = units(sentence, language), []
    style = draw.choice(("({0}: {1})", "[{1}]({0})", "<{0}>{1}</{0}>", "{0}={1}", "[{0}] {1}"))
    for start, end in reversed(draw_ranges(len(parts), draw.randint(1, 4), draw)):
        span = strip_punctuation(join_units(parts[start:end], language))
        if span:
            key = draw_key(draw)
            before, _, after = join_units(parts[start:end], language).partition(span)
            parts[start:end] = [before + style.format(key, span) + after]
            pairs.append((key, span))
    return join_units(parts, language), pairs[::-1]


# ----------------------------------------------------------------------------------------------------- copies


def copy_whole(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Repeat a sentence."""
    frames = ("Utterance: {0}\nCopy: {0}", "{0}\n{0}", "Text: {0}\nAgain: {0}", '"{0}" -> "{0}"')
    return draw.choice(frames).format(sentence)


def copy_marked(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """List the spans between asterisks."""
    text, found = mark_spans(sentence, language, 3, ("*", "*"), draw)
    return f"Utterance: {text}\nMarked: {'; '.join(found) or 'None'}"


def copy_marked_freely(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """List marked spans, with other marks, frames and separators."""
    text, found = mark_spans(sentence, language, 4, draw.choice(MARKS), draw)
    source, target = draw.choice(
        (("Text", "Marked"), ("Sentence", "Spans"), ("Input", "Output"), ("Utterance", "Values"))
    )
    style = draw.randrange(5)
    if style == 0:
        answer = "\n".join(f"- {span}" for span in found)
    elif style == 1:
        answer = "\n".join(f"{number}. {span}" for number, span in enumerate(found, 1))
    elif style == 2:
        return f"{source}: {text}\n{target}: {json.dumps(found, ensure_ascii=False)}"
    else:
        return f"{source}: {text}\n{target}: {('; ', ', ')[style - 3].join(found) or 'None'}"
    return f"{source}: {text}\n{target}:\n{answer}"


def copy_tagged(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """List tagged spans as `key: value; key: value`."""
    text, pairs = tag_spans(sentence, language, draw)
    name = draw.choice(("Slots", "Parts", "Values", "Tags"))
    return f"Utterance: {text}\n{name}: {'; '.join(map(': '.join, pairs)) or 'None'}"


def copy_parts(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """List spans in order of appearance under announced keys."""
    found = draw_spans(sentence, language, 4, draw)
    keys = [draw_key(draw) for _ in found]
    lines = [f"Keys: {', '.join(keys)}", f"Utterance: {sentence}"]
    draw.shuffle(lines)
    answer = "; ".join(map(": ".join, zip(keys, found, strict=True))) or "None"
    return "\n".join([*lines, f"Parts: {answer}"])


def copy_table(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Look keys up in a list of keys and values."""
    table = [
        (draw_key(draw), span) for text in (sentence, other) for span in draw_spans(text, language, 3, draw)
    ]
    asked = draw.sample(table, draw.randint(1, len(table))) if table else []
    separator = draw.choice(("; ", "\n"))
    return "; ".join(map(": ".join, table)) + "\n" + separator.join(map(": ".join, asked))


def copy_between(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Quote the words from one named word to another, and the ends of the sentence."""
    parts = units(sentence, language)
    lines = [sentence]
    for start, end in draw_ranges(len(parts), 2, draw):
        lines.append(f"from {parts[start]} to {parts[end - 1]}: {join_units(parts[start:end], language)}")
    lines.append(f"first: {strip_punctuation(parts[0])}; last: {strip_punctuation(parts[-1])}")
    return "\n".join(lines)


def copy_shuffled(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Repeat words in random order, so that only copying predicts the second line."""
    parts = units(sentence, language) + units(other, language)
    draw.shuffle(parts)
    line = join_units(parts[: draw.randint(4, 20)], language)
    return f"{line}\n{line}"


# --------------------------------------------------------------------------------------------- JSON and lists


def dump(value: Any, draw: random.Random) -> str:
    """Write JSON, usually on one line with the default separators."""
    style = draw.random()
    if style < 0.06:
        return json.dumps(value, ensure_ascii=False, indent=2)
    if style < 0.12:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json.dumps(value, ensure_ascii=False)


def draw_shape(draw: random.Random) -> Callable[[list[tuple[str, str]]], Any]:
    """Draw how pairs of key and value are put into a JSON value; one shape serves a whole document."""
    outer, inner, first, second, title = (draw_key(draw) for _ in range(5))
    shapes: tuple[Callable[[list[tuple[str, str]]], Any], ...] = (
        dict,
        lambda pairs: {outer: [{first: key, second: value} for key, value in pairs]},
        lambda pairs: {title: inner, outer: [{first: key, second: value} for key, value in pairs]},
        lambda pairs: {title: inner, outer: dict(pairs)},
        lambda pairs: [[key, value] for key, value in pairs],
        lambda pairs: {outer: [value for _, value in pairs]},
        lambda pairs: [{key: value} for key, value in pairs],
    )
    return draw.choice(shapes)


def json_from_tags(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Write tagged spans as JSON, for one sentence or several with the same shape."""
    shape, blocks = draw_shape(draw), []
    source, target = draw.choice((("Text", "JSON"), ("Utterance", "JSON"), ("Input", "Output"), ("Q", "A")))
    for text in (sentence, other)[: draw.randint(1, 2)]:
        tagged, pairs = tag_spans(text, language, draw)
        blocks.append(f"{source}: {tagged}\n{target}: {json.dumps(shape(pairs), ensure_ascii=False)}")
    return "\n\n".join(blocks)


def json_few_shot(sentences: list[str], language: str, draw: random.Random) -> str:
    """Write spans of several sentences as JSON under the same few keys and the same shape."""
    shape, keys, blocks = draw_shape(draw), [draw_key(draw) for _ in range(4)], []
    source, target = draw.choice(
        (("Text", "JSON"), ("Utterance", "Call"), ("Sentence", "Entities"), ("", ""))
    )
    for sentence in sentences:
        pairs = [(draw.choice(keys), span) for span in draw_spans(sentence, language, 3, draw)]
        answer = json.dumps(shape(pairs), ensure_ascii=False)
        blocks.append(f"{source}: {sentence}\n{target}: {answer}" if source else f"{sentence}\n{answer}")
    return "\n\n".join(blocks)


def json_from_list(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Convert key-value lines to a JSON object, or back."""
    pairs = [
        (draw_key(draw), span) for text in (sentence, other) for span in draw_spans(text, language, 3, draw)
    ]
    lines, answer = "\n".join(map(": ".join, pairs)), dump(dict(pairs), draw)
    first, second = (lines, answer) if draw.random() < 0.7 else (answer, lines)
    return f"{first}\n{draw.choice(('', 'JSON:', '->', 'The same:'))}\n{second}"


def draw_value(texts: list[str], depth: int, draw: random.Random) -> Any:
    """Draw a JSON value: a text with or without characters to escape, a number, or a nested value."""
    kind = draw.random()
    if depth and kind < 0.25:
        return {draw_key(draw): draw_value(texts, depth - 1, draw) for _ in range(draw.randint(1, 4))}
    if depth and kind < 0.4:
        return [draw_value(texts, depth - 1, draw) for _ in range(draw.randint(0, 4))]
    if kind < 0.55:
        return draw.choice((draw.randint(0, 9), draw.randint(10, 3000), draw.randint(0, 999) / 10))
    if kind < 0.65:
        return draw.choice((True, False, None))
    text = draw.choice(texts) if texts else ""
    if draw.random() < 0.2:
        at = draw.randint(0, len(text))
        text = text[:at] + draw.choice(('"', "\\", "\n", "\t", '"…"', "/")) + text[at:]
    return text


def json_nested(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Write a nested JSON object with values of all types, and quote some of its values by path."""
    texts = [span for text in (sentence, other) for span in draw_spans(text, language, 3, draw)]
    value = {draw_key(draw): draw_value(texts, 2, draw) for _ in range(draw.randint(2, 5))}
    lines = [dump(value, draw)]
    for key in draw.sample(sorted(value), draw.randint(0, 2)):
        lines.append(f"{key}: {json.dumps(value[key], ensure_ascii=False)}")
    return "\n".join(lines)


def list_lines(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Write spans as a numbered or bulleted list, then as one line."""
    found = [span for text in (sentence, other) for span in draw_spans(text, language, 3, draw)]
    bullet = draw.choice(("- {1}", "* {1}", "{0}. {1}", "{0}) {1}"))
    lines = "\n".join(bullet.format(number, span) for number, span in enumerate(found, 1))
    line = draw.choice(("; ", ", ")).join(found)
    return "\n".join((lines, line) if draw.random() < 0.6 else (line, lines))


def quotation(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Quote a sentence, nested quotation marks included."""
    quoted = json.dumps(sentence, ensure_ascii=False)
    found = draw_spans(sentence, language, 2, draw)
    lines = [f"{draw_key(draw)} said: {quoted}", f"Said: {sentence}"]
    return "\n".join([*lines, *(f'"{span}"' for span in found)])


def in_chat(sentence: str, other: str, language: str, draw: random.Random) -> str:
    """Put an exercise whose answer is its last line into the chat template's form."""
    inner = draw.choice((copy_whole, copy_marked, copy_tagged, copy_parts))
    question, _, answer = inner(sentence, other, language, draw).rpartition("\n")
    label, _, value = answer.partition(": ")
    if not question or not value:
        question, label, value = sentence, "Copy", sentence
    system = "<|system|>\nFollow the format exactly." + EOS + "\n" if draw.random() < 0.3 else ""
    return f"{system}<|user|>\n{question}\n{label}:{EOS}\n<|assistant|>\n{value}"


EXERCISES: dict[Exercise, float] = {
    copy_whole: 2,
    copy_marked: 6,
    copy_marked_freely: 3,
    copy_tagged: 3,
    copy_parts: 1,
    copy_table: 1,
    copy_between: 1,
    copy_shuffled: 1,
    json_from_tags: 3,
    json_from_list: 1,
    json_nested: 1,
    list_lines: 0.5,
    quotation: 0.5,
    in_chat: 2,
}
"""Exercises and their relative frequency."""
