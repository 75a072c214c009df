"""Alignment of languages at every layer of a model, by pooled hidden states."""
