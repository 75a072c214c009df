"""The language of slot filling's answers as a grammar: values can only be stretches of the utterance.

A value begins and ends at any character (code point), and not only where a word does: many scripts write no
blanks, and gold values end within words where suffixes follow them ("Ankara'da"). It does not begin or end in
white space, does not hold what separates slots or ends the answer (";", a line break), and does not split
what midalign.metrics.folding reads as one character (a letter and its accent): so every value stands in the
utterance as midalign.metrics.slot looks it up.
"""

from collections.abc import Sequence

from midalign.metrics.folding import fold_letters

SEPARATORS = ";\n"
WINDOW = 8
"""Characters on each side of a place that are looked at for what belongs together: a syllable of Hangul has
three, a letter seldom more than four marks."""


def build_slot_grammar(utterance: str, slots: Sequence[str], language: str) -> str:
    """Return the grammar of `None` or `slot: value; slot: value` in xgrammar's EBNF.

    Its size is linear in the utterance, with one rule per character: that character and, if there are more,
    the rule of the next. A value is any of the rules at whose character a value may begin.
    """
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
    """Return whether folding leaves the text before a place and that from there on side by side."""
    before, after = text[max(place - WINDOW, 0) : place], text[place : place + WINDOW]
    if before.isascii() and after.isascii():
        return True
    whole, parts = (
        fold_letters(before + after, language),
        (fold_letters(t, language) for t in (before, after)),
    )
    return whole == "".join(parts)


def quoted(text: str) -> str:
    """Return a string literal of the EBNF.

    Unprintable characters and the two special ones are written as numbers.
    """
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'
