"""Language-model loss at the labelled positions, without all their logits in memory at once."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from midalign.align.early_exit import EarlyExit, run_until_exit

CHUNK = 128
"""Positions whose logits exist at one time: 134 MB in fp32 for a vocabulary of 262k."""

IGNORED = -100
"""Label of positions without loss, as in torch's cross entropy."""

PROBE_TOKENS = 8
"""Tokens of the forward pass that detects scaled or capped logits."""


class _FrozenHeadLoss(torch.autograd.Function):
    """Cross entropy of `states @ weight.T` and one label per state. Logits exist for one chunk at a time.

    The head is frozen, so only the gradient with respect to the states is needed: (softmax - one-hot) @
    weight. It is computed in forward from the chunk's logits, so backward recomputes nothing.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        gradient = torch.empty_like(states)
        precision = torch.promote_types(states.dtype, torch.float32)
        losses = torch.empty(len(labels), dtype=precision, device=states.device)
        for start in range(0, len(labels), CHUNK):
            chunk = slice(start, start + CHUNK)
            log_likelihood = F.log_softmax(states[chunk] @ weight.T, 1, dtype=precision)
            target = labels[chunk].unsqueeze(1)
            losses[chunk] = -log_likelihood.gather(1, target).squeeze(1)
            residual = log_likelihood.exp_()
            residual.scatter_add_(1, target, torch.full_like(target, -1, dtype=residual.dtype))
            gradient[chunk] = residual.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].unsqueeze(1).to(gradient.dtype), None, None


def frozen_head(model: nn.Module) -> Tensor | None:
    """Return the head's weight (vocabulary, hidden) if the logits are its plain product with the states.

    Return None for decoders that train or bias their head, or that scale or cap their logits. A forward pass
    detects the latter, since every architecture has another configuration key for it.
    """
    head = model.get_output_embeddings()  # type: ignore[operator]
    if type(head) is not nn.Linear or head.bias is not None or head.weight.requires_grad:
        return None
    return head.weight if _ends_in(model, head) else None


def _ends_in(model: nn.Module, head: nn.Linear) -> bool:
    """Return whether the model's logits are the head's output, unchanged."""
    outputs: list[Tensor] = []
    hook = head.register_forward_hook(lambda _, __, output: outputs.append(output))
    ids = torch.arange(PROBE_TOKENS, device=head.weight.device).unsqueeze(0) % len(head.weight)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits: Tensor = run_until_exit(model, {"input_ids": ids}).logits
    finally:
        hook.remove()
        model.train(training)
    return len(outputs) == 1 and torch.equal(logits.float(), outputs[0].float())


def label_losses(
    model: nn.Module, inputs: Mapping[str, object], labels: Tensor, head: Tensor | None
) -> Tensor:
    """Return the cross entropy of every label, at least in fp32.

    Args:
        inputs: arguments of the model's forward.
        labels: (rows, width), the next token at each position, or IGNORED.
        head: `frozen_head(model)`, in the dtype of the product. None runs the model's head, and everything
            after it, on the labelled positions.

    Returns:
        (labels that are not IGNORED,), row by row. Logits are computed only for these.
    """
    labelled = labels != IGNORED

    def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        states = args[0][labelled]
        if head is not None:
            raise EarlyExit(states)
        return (states.unsqueeze(0),)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)  # type: ignore[operator]
    try:
        output = run_until_exit(model, inputs)
    finally:
        hook.remove()
    if head is not None:
        losses: Tensor = _FrozenHeadLoss.apply(output.to(head.dtype), head, labels[labelled])  # type: ignore[no-untyped-call]
        return losses
    logits = output.logits[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels[labelled], reduction="none")
