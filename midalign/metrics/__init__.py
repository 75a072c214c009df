"""Pure functions on strings and counts."""
