"""What a model is worth while it trains: losses and retrieval by language, on the validation split."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from midalign.align.packing import model_inputs
from midalign.align.pooling import mean_of_own
from midalign.align.retrieval import accuracy
from midalign.align.rows import PADDING, lay_out
from midalign.align.trunk import states_at_each, without_bos

if TYPE_CHECKING:
    from midalign.train.stream import Pair, Tokens


def pair_retrieval(
    model: nn.Module, tokens: "Tokens", pairs: "Sequence[Pair]", layers: Sequence[int]
) -> list[float]:
    """After each of some layers, the share of sentences that find their translation among those of `pairs`.

    Means without BOS, centred, cosine, both directions: as `midalign eval` measures it.
    """
    sides = []
    for side in ([pair.foreign for pair in pairs], [pair.english for pair in pairs]):
        ids = [tokens.sentence(sentence) for sentence in side]
        rows = vars(lay_out([ids], [0], tokens.tokenizer.pad_token_id, None))
        rows = {name: tensor.to(next(model.parameters()).device) for name, tensor in rows.items()}
        with torch.no_grad():
            states = states_at_each(model, model_inputs(rows, None, torch.float32), layers)
        kept = without_bos(model, rows["input_ids"], rows["owner"] != PADDING)
        sides.append([mean_of_own(state, rows["owner"], kept, len(ids)) for state in states])
    return [accuracy(foreign, english) for foreign, english in zip(*sides, strict=True)]
