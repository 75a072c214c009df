"""One vector a sentence out of the states of its tokens."""

from torch import Tensor


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that `mask` keeps, in fp32.

    Args:
        states: (batch, tokens, hidden), any float dtype.
        mask: (batch, tokens), 1 for tokens that count. A row of zeros gives a zero vector.

    Returns:
        (batch, hidden), fp32: sums of bf16 states lose what tells sentences apart.
    """
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)
