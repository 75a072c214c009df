"""Bits per character against transformers' own loss, each sentence alone."""

import math

import pytest
import torch
from test_architectures import tiny
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from midalign import bases
from midalign.align import likelihood
from midalign.align.likelihood import bits_per_character, predicted_texts


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


TEXT = "Weck mich bitte am Mittwoch um Viertel nach neun, und spiel dann Musik von Bach."


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("limit", [None, 5, 12, 500])
def test_characters_are_those_of_the_predicted_tokens(bos, limit):
    """Text that is cut off, or is the first token and not predicted, does not count."""
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    if not bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A")
    whole = tokenizer(TEXT)["input_ids"]
    assert (whole[0] == tokenizer.bos_token_id) == bos
    (ids,), characters = predicted_texts(tokenizer, [TEXT], limit)
    assert ids == whole[:limit]
    first, last = (len(tokenizer.decode(part, skip_special_tokens=True)) for part in (ids[:1], ids))
    assert TEXT.startswith(tokenizer.decode(ids, skip_special_tokens=True))
    assert characters == last - first
    assert (characters == len(TEXT)) == (bos and limit in (None, 500))
