"""Data sets: one module each, fetched, verified, read as rows."""
