"""Bits per character of plain sentences, which alignment should not degrade."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from midalign.align.head import IGNORED, frozen_head, label_losses
from midalign.align.packing import model_inputs
from midalign.align.rows import lay_out
from midalign.align.sentences import added_tokens

ROWS = 50


def bits_per_character(
    model: nn.Module, sentences: Sequence[Sequence[int]], characters: int, pad: int
) -> float:
    """Return the bits that the tokens after the first take per character.

    Args:
        sentences: token ids, including those that the tokenizer adds before a sentence.
        characters: characters of the predicted tokens of all sentences, as `predicted_texts` counts them.
        pad: id of padding.
    """
    device = next(model.parameters()).device
    nats, head = 0.0, frozen_head(model)
    order = sorted(sentences, key=len)
    for start in range(0, len(order), ROWS):
        rows = vars(lay_out([order[start : start + ROWS]], [0], pad, None))
        ids, owner = rows["input_ids"], rows["owner"]
        labels = torch.full_like(ids, IGNORED)
        labels[:, :-1] = ids[:, 1:].where(owner[:, 1:] >= 0, IGNORED)
        inputs = model_inputs({name: t.to(device) for name, t in rows.items()}, None, torch.float32)
        with torch.no_grad():
            losses = label_losses(model, inputs, labels.to(device), head)
        nats += float(losses.double().sum())
    return nats / math.log(2) / max(characters, 1)


def predicted_texts(
    tokenizer: Any, sentences: Sequence[str], limit: int | None
) -> tuple[list[list[int]], int]:
    """Return the first `limit` token ids of each sentence, and the characters of all but the first tokens.

    The first token is not predicted: it is the BOS, which has no characters, or without a BOS a part of the
    text. Tokens that the tokenizer adds after a sentence are removed.
    """
    _, after = added_tokens(tokenizer)
    rows, characters = [], 0
    for sentence in sentences:
        ids, count = _predicted_text(tokenizer, sentence, after, limit)
        rows.append(ids)
        characters += count
    return rows, characters


def _predicted_text(tokenizer: Any, sentence: str, after: int, limit: int | None) -> tuple[list[int], int]:
    if not tokenizer.is_fast:  # slow tokenizers give no offsets
        ids = tokenizer(sentence)["input_ids"]
        ids = ids[: len(ids) - after][:limit]
        return ids, len(tokenizer.decode(ids[1:], skip_special_tokens=True))
    encoded = tokenizer(sentence, return_offsets_mapping=True)
    kept = slice(len(encoded["input_ids"]) - after)
    ids, ends = encoded["input_ids"][kept], [end for _, end in encoded["offset_mapping"][kept]]
    if not ids:
        return [], 0
    last = len(sentence) if limit is None or len(ids) <= limit else max(ends[:limit])
    return ids[:limit], last - ends[0]
