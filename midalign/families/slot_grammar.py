"""The grammar of slot filling's answers: values can only be substrings of the utterance.

A value can begin and end at any character (code point), not only at word boundaries: many scripts have no
blanks between words, and gold values end within words if a suffix follows ("Ankara'da"). But a value

- does not begin or end with white space,
- does not contain what separates slots or ends the answer (";", a line break),
- does not split what midalign.metrics.folding reads as one character (a letter and its accent).

So midalign.metrics.slot finds every value in the utterance.
"""

from collections.abc import Sequence

from midalign.metrics.folding import fold_letters

SEPARATORS = ";\n"
WINDOW = 8
"""Number of characters on each side of a place that may form one character with their neighbours: a syllable
of Hangul has three, a letter rarely more than four marks."""


def build_slot_grammar(utterance: str, slots: Sequence[str], language: str) -> str:
    """Return the grammar of `None` or `slot: value; slot: value` in xgrammar's EBNF.

    Its size is linear in the utterance, with one rule per character: that character and, if there are more,
    the rule of the next. A value is any of the rules at whose character a value may begin.
    """
    # From the last character to the first, so that a rule knows whether the next character has one.
    rules: list[str] = []
    starts: list[str] = []
    following = ""
    for place in range(len(utterance) - 1, -1, -1):
        character = utterance[place]
        name = f"c{place}"
        may_end = not character.isspace() and separable(utterance, place + 1, language)
        if character in SEPARATORS or not (may_end or following):
            following = ""
            continue
        rest = f" {following}?" if following and may_end else f" {following}" if following else ""
        rules.append(f"{name} ::= {quoted(character)}{rest}")
        if not character.isspace() and separable(utterance, place, language):
            starts.append(name)
        following = name
    if not starts:
        return 'root ::= "None"'
    return "\n".join(
        (
            'root ::= "None" | pair ("; " pair)*',
            'pair ::= slot ": " value',
            f"slot ::= {' | '.join(map(quoted, slots))}",
            f"value ::= {' | '.join(reversed(starts))}",
            *reversed(rules),
        )
    )


def separable(text: str, place: int, language: str) -> bool:
    """Return whether a text can be split at a place without changing how it is folded."""
    before, after = text[max(place - WINDOW, 0) : place], text[place : place + WINDOW]
    if before.isascii() and after.isascii():
        return True
    whole, parts = (
        fold_letters(before + after, language),
        (fold_letters(t, language) for t in (before, after)),
    )
    return whole == "".join(parts)


def quoted(text: str) -> str:
    """Return a string literal of the EBNF. Unprintable characters, quotes and backslashes are escaped."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'
