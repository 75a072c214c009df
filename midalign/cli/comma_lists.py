"""Comma-separated values of options."""

from collections.abc import Iterable


def split_commas(texts: Iterable[str]) -> list[str]:
    """Return the non-empty values of one or several comma-separated texts, without blanks around them."""
    return [value.strip() for text in texts for value in text.split(",") if value.strip()]
