"""Bits per character against transformers' own loss, each sentence alone."""

import math

import pytest
import torch
from test_architectures import tiny

from midalign.align import likelihood
from midalign.align.likelihood import bits_per_character


@pytest.mark.parametrize("name", ["llama", "gemma2"])  # gemma2 caps its logits
def test_bits_are_those_of_sentences_alone(name, monkeypatch):
    monkeypatch.setattr(likelihood, "ROWS", 2)
    model = tiny(name)
    sentences = [[1, 5, 6, 7], [1, 8], [1, *range(10, 30)]]
    nats = 0.0
    for ids in sentences:
        batch = torch.tensor([ids])
        nats += model(input_ids=batch, labels=batch).loss.item() * (len(ids) - 1)
    assert bits_per_character(model, sentences, 40, 0) == pytest.approx(nats / math.log(2) / 40, rel=1e-5)
