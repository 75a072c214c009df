"""MASSIVE's annotation: `wake me at [time : nine am]`."""

from midalign.metrics.span_places import ANNOTATED_SPAN


def slots(annotated: str) -> tuple[tuple[str, str], ...]:
    """Return (label, value) of the spans, in order of appearance."""
    return tuple((label, value.strip()) for label, value in ANNOTATED_SPAN.findall(annotated))


def plain(annotated: str) -> str:
    """Return the text without brackets."""
    return ANNOTATED_SPAN.sub(r"\2", annotated)
