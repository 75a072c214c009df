"""Engines, the run through lm-eval, and the record."""
