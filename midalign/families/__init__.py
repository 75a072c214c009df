"""Task families: prompt, target, parsing and scoring of one document."""
