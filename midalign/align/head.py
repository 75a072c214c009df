"""The language-model loss at the positions that have labels, without ever holding all their logits."""

from typing import Any, NoReturn

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

CHUNK = 128
"""Positions whose logits exist at one time: 134 MB in fp32 for a vocabulary of 262k."""

SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "mup_width_multiplier")
"""Configuration keys of decoders that do more to their logits than the head's matrix product."""


class _HeadReached(Exception):  # noqa: N818 - not an error
    """Leaves the model's forward once the head's input is at hand."""


class _FrozenHeadLoss(torch.autograd.Function):
    """Mean cross entropy of `states @ weight.T`: logits live for one chunk, in forward only.

    The head is frozen, so the gradient with respect to the states, (softmax - one-hot) @ weight, can be had
    while the chunk's logits are there: nothing is recomputed in backward.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(states)
        loss = torch.zeros((), dtype=torch.float32, device=states.device)
        for start in range(0, len(labels), CHUNK):
            chunk = slice(start, start + CHUNK)
            log_likelihood = F.log_softmax(states[chunk] @ weight.T, 1, dtype=torch.float32)
            target = labels[chunk].unsqueeze(1)
            loss -= log_likelihood.gather(1, target).sum()
            residual = log_likelihood.exp_()
            residual.scatter_add_(1, target, torch.full_like(target, -1, dtype=residual.dtype))
            gradient[chunk] = residual.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient / len(labels))
        return loss / len(labels)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None


def frozen_head(model: nn.Module) -> Tensor | None:
    """The head's weight (vocabulary, hidden) where the logits are its plain product with the states.

    None for decoders that train or bias their head, or that scale or cap their logits.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    if any(getattr(config, key, None) not in (None, 1, 1.0) for key in SCALED_LOGITS):
        return None
    return head.weight


def answer_loss(
    model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, ignored: int, head: Tensor | None
) -> Tensor:
    """Cross entropy in fp32, mean over the labelled positions.

    Args:
        inputs: what the model's forward takes, rows padded on the left.
        labels: (batch, columns) for the last columns of `input_ids`; `ignored` where there is no loss.
        head: `frozen_head(model)`, in the dtype of the product; None takes transformers' own logits of the
            last columns.

    Returns:
        A scalar, fp32. With a head, logits are computed where a label follows and nowhere else.
    """
    columns = labels.shape[1] + 1
    if head is None:
        logits = model(**inputs, logits_to_keep=columns, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=ignored)
    labelled = labels != ignored
    states = _states_before_head(model, inputs, columns)[:, :-1][labelled]
    loss: Tensor = _FrozenHeadLoss.apply(states.to(head.dtype), head, labels[labelled])  # type: ignore[no-untyped-call]
    return loss


def _states_before_head(model: nn.Module, inputs: dict[str, Tensor], columns: int) -> Tensor:
    """What the head would multiply for the last columns: (batch, columns, hidden), after the final norm."""
    reached: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Tensor, ...]) -> NoReturn:
        reached.append(args[0])
        raise _HeadReached

    hook = model.get_output_embeddings().register_forward_pre_hook(stop)  # type: ignore[operator]
    try:
        model(**inputs, logits_to_keep=columns, use_cache=False)
    except _HeadReached:
        return reached[0]
    finally:
        hook.remove()
    raise RuntimeError(f"{type(model).__name__} finished without running its head")
