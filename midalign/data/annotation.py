"""MASSIVE's annotation: `wake me at [time : nine am]`."""

import re

SPAN = re.compile(r"\[(\S+) : (.+?)\]")


def slots(annotated: str) -> tuple[tuple[str, str], ...]:
    """Return (label, value) of the spans, in order of appearance."""
    return tuple((label, value.strip()) for label, value in SPAN.findall(annotated))


def plain(annotated: str) -> str:
    """Return the text without brackets."""
    return SPAN.sub(r"\2", annotated)
