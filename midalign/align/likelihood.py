"""How well a decoder predicts plain sentences, which alignment must not wear away."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from midalign.align.head import IGNORED, frozen_head, label_losses
from midalign.align.packing import model_inputs
from midalign.align.rows import lay_out

ROWS = 50


def bits_per_character(
    model: nn.Module, sentences: Sequence[Sequence[int]], characters: int, pad: int
) -> float:
    """Bits that the tokens after the first take, over the characters of the sentences.

    Args:
        sentences: token ids, with what the tokenizer puts before them.
        characters: of all sentences together.
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
    return nats / math.log(2) / characters
