"""The trainer: glue between align/ and transformers."""
