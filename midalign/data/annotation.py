"""MASSIVE's annotation: `wake me at [time : nine am]`."""

from midalign.metrics.span_places import ANNOTATED_SPAN


def slots(annotated: str) -> tuple[tuple[str, str], ...]:
    """Return (label, value) of the spans, in order of appearance."""
    return tuple((label, value.strip()) for label, value in ANNOTATED_SPAN.findall(annotated))


def split_spans(annotated: str) -> list[tuple[str | None, str]]:
    """Return the pieces of an annotation in order: (label, value) of spans, (None, text) between them."""
    pieces: list[tuple[str | None, str]] = []
    end = 0
    for span in ANNOTATED_SPAN.finditer(annotated):
        pieces += [(None, annotated[end : span.start()].strip()), (span[1], span[2].strip())]
        end = span.end()
    pieces.append((None, annotated[end:].strip()))
    return [piece for piece in pieces if piece[1]]


def plain(annotated: str) -> str:
    """Return the text without brackets."""
    return ANNOTATED_SPAN.sub(r"\2", annotated)
