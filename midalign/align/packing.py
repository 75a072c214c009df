"""Pack several samples into one row of a decoder, invisible to each other."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from midalign.align.rows import PADDING, SHARED, lay_out
from midalign.align.trunk import depth, states_at

Windows = dict[str, int | None]
"""Kind of attention -> how many tokens it looks back, None for all."""

PACKED_DEVIATION = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 3e-2}
"""Largest relative difference of states that counts as rounding. On Gemma 3 270M, rounding gives up to 1e-6
in fp32 and 5e-3 in bf16, and a token that sees another sample gives 0.45."""


def block_mask(owner: Tensor, position_ids: Tensor, window: int | None = None) -> Tensor:
    """Return the mask (rows, 1, width, width), True where the query (third axis) sees the key.

    A token sees the shared tokens of its row and earlier ones of its own sample. With a window, it sees fewer
    than `window` positions back. Padding sees itself, because a softmax over no token is NaN.
    """
    query, key = owner.unsqueeze(2), owner.unsqueeze(1)
    index = torch.arange(owner.shape[1], device=owner.device)
    seen = ((query == key) | (key == SHARED)) & (key != PADDING) & (index.unsqueeze(1) >= index)
    if window is not None:
        seen &= position_ids.unsqueeze(2) - position_ids.unsqueeze(1) < window
    return (seen | torch.eye(owner.shape[1], dtype=torch.bool, device=owner.device)).unsqueeze(1)


def attention_windows(model: nn.Module) -> Windows:
    """Return the windows of a decoder's kinds of attention, by transformers' names."""
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    window: int | None = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return {"full_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def model_inputs(
    rows: Mapping[str, Tensor], windows: Windows | None, dtype: torch.dtype
) -> dict[str, object]:
    """Return the arguments of a transformers decoder's forward for the given rows.

    Args:
        rows: `input_ids`, `position_ids` and `owner`, as in Rows.
        windows: `attention_windows` for packed rows, None if every row is one sample.
        dtype: dtype of the additive mask, which is that of the attention scores.
    """
    if windows is None:
        return {"input_ids": rows["input_ids"], "attention_mask": (rows["owner"] != PADDING).long()}
    masks: dict[str, Tensor] = {}
    for kind, window in windows.items():
        seen = block_mask(rows["owner"], rows["position_ids"], window)
        closed = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        masks[kind] = closed.masked_fill_(~seen, torch.finfo(dtype).min)
    return {
        "input_ids": rows["input_ids"],
        "position_ids": rows["position_ids"],
        "attention_mask": masks if len(masks) > 1 else next(iter(masks.values())),
    }


def can_pack(model: nn.Module) -> bool:
    """Return whether packed rows give the same states as single samples, by trying.

    Packing fails in decoders that derive distances from a token's place in the row (ALiBi), carry a state
    from token to token, or build their own mask.
    """
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    longest = min(getattr(config, "max_position_embeddings", None) or 300, 300)
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    device, dtype = weight.device, weight.dtype

    # Lay out the same short sample alone, and behind a long one in a packed row.
    ids = [token % min(config.vocab_size, 200) for token in range(3, 3 + 7 * (longest + 8), 7)]
    prefix, long, short = ids[:2], ids[2:longest], ids[longest : longest + 5]
    packed = lay_out([[prefix + long, prefix + short]], [2], 0, width=2 * longest)
    alone = lay_out([[prefix + short]], [0], 0, width=None)

    # Compare the states of the short sample in both.
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            states = []
            for rows, windows in ((packed, attention_windows(model)), (alone, None)):
                parts = {name: tensor.to(device) for name, tensor in vars(rows).items()}
                inputs = model_inputs(parts, windows, dtype)
                states.append(states_at(model, inputs, depth(model))[0])
            in_row = states[0][(packed.owner[0] == 1).to(device)]
            expected = states[1][2 : 2 + len(short)]
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False  # decoders reject an unknown mask in many ways
    finally:
        model.train(training)
    return float((in_row - expected).norm() / expected.norm()) < PACKED_DEVIATION.get(dtype, 1e-3)
