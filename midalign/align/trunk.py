"""Run the first k blocks of any decoder, without the blocks above and the head."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NoReturn

import torch
from torch import Tensor, nn

from midalign.align.early_exit import EarlyExit, run_until_exit
from midalign.align.pooling import mean_pool
from midalign.align.rows import PADDING, lay_out, word_mask


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the text decoder's blocks: its list of modules with as many entries as layers.

    Raises ValueError if the model has no such list.
    """
    layers = depth(model)
    # Vision-language models also have an encoder, possibly with as many blocks, so the decoder comes first.
    # For decoders of ModernBERT, `get_decoder` gives the head, so the whole model follows.
    for module in chain(model.get_decoder().modules(), model.modules()):  # type: ignore[operator]
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {layers} blocks")


def depth(model: nn.Module) -> int:
    """Return the number of blocks of a transformers decoder, wrapped by peft or not."""
    return int(model.config.get_text_config().num_hidden_layers)  # type: ignore[union-attr, operator]


def check_states(model: nn.Module) -> None:
    """Raise ValueError for a model without one hidden state per token after its last block.

    These are models with several streams per token, and models with several kinds of blocks.
    """
    try:
        embeddings = model.get_input_embeddings().weight  # type: ignore[operator]
        ids = torch.arange(8, device=embeddings.device).unsqueeze(0) % len(embeddings)
        with torch.no_grad():
            shape = states_at(model, {"input_ids": ids}, depth(model)).shape
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"its hidden states cannot be read: {reason}") from error
    if shape[:-1] != ids.shape:
        raise ValueError(
            f"its hidden states are not one per token: {ids.numel()} tokens have states of shape {(*shape,)}"
        )


def layer_index(layer: float | str, depth: int) -> int:
    """Return `middle` as depth // 2, a share of the depth as the nearest block, and an index as itself.

    Raises ValueError outside 0..depth.
    """
    if layer == "middle":
        return depth // 2
    index = round(layer * depth) if isinstance(layer, float) else int(layer)
    if not 0 <= index <= depth:
        raise ValueError(f"layer {index} does not exist: the model has {depth} blocks, so 0 to {depth}")
    return index


def states_at(model: nn.Module, inputs: Mapping[str, object], layer: int) -> Tensor:
    """Return the residual stream after `layer` blocks: equals `hidden_states[layer]`, before any final norm.

    Args:
        inputs: arguments of the model's forward, such as `input_ids` (batch, tokens).
        layer: number of blocks to run, 0 to depth. 0 gives the embeddings.

    Returns:
        (batch, tokens, hidden). Later blocks and the head are not run.
    """
    return states_at_each(model, inputs, [layer])[0]


def states_at_each(
    model: nn.Module,
    inputs: Mapping[str, object],
    layers: Sequence[int],
    reduce: Callable[[Tensor], Tensor] = lambda states: states,
) -> list[Tensor]:
    """Return `states_at` for several layers from one forward pass, which stops at the highest layer.

    Applies `reduce` to each layer's states at once and keeps only its result.
    """
    # A hook before each layer's block keeps its input, and the highest one stops the forward pass.
    blocks, highest = decoder_blocks(model), max(layers)
    reached: dict[int, Tensor] = {}

    def before(layer: int) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            reached[layer] = reduce(args[0] if args else kwargs["hidden_states"])
            if layer == highest:
                raise EarlyExit([reached[layer] for layer in layers])

        return keep

    def stop_after(_: nn.Module, __: object, output: Tensor | Sequence[Tensor]) -> NoReturn:
        reached[highest] = reduce(output if isinstance(output, Tensor) else output[0])
        raise EarlyExit([reached[layer] for layer in layers])

    # Stopping before block k instead of after block k-1 keeps the last block complete under recomputation.
    hooks = [
        blocks[layer].register_forward_pre_hook(before(layer), with_kwargs=True, prepend=True)
        for layer in set(layers)
        if layer < len(blocks)
    ]
    if highest == len(blocks):
        hooks.append(blocks[-1].register_forward_hook(stop_after))
    try:
        states = run_until_exit(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(states, list):
        raise RuntimeError(f"{type(model).__name__} finished without running block {highest}")
    return states


def pooled_sentences(
    model: nn.Module,
    sentences: Sequence[Sequence[int]],
    layers: Sequence[int],
    pad: int,
    sink: int,
    rows: int = 50,
) -> Tensor:
    """Return the mean states of sentences after each of the given layers.

    The first token is an attention sink whose state has many times the norm of the others (arXiv 2402.17762).
    A mean that includes it is mostly a constant.

    Args:
        sentences: token ids of each.
        layers: numbers of blocks.
        pad: id of padding.
        sink: tokens at the beginning of a sentence that its mean excludes (`sentences.sink_tokens`).
        rows: sentences per batch, in order. Sorted sentences need less padding.

    Returns:
        (layers, sentences, hidden), fp32 on the CPU.
    """
    place = next(model.parameters()).device
    pooled: list[Tensor] = [torch.empty(0)] * len(sentences)
    for start in range(0, len(sentences), rows):
        laid = lay_out([sentences[start : start + rows]], [0], pad, None)
        owner, ids = laid.owner[:, 0].tolist(), laid.input_ids.to(place)
        mask = (laid.owner != PADDING).long().to(place)
        pool = partial(mean_pool, mask=word_mask(laid, sink).to(place))
        with torch.no_grad():
            states = states_at_each(model, {"input_ids": ids, "attention_mask": mask}, layers, pool)
        for number, states_of_sentence in zip(owner, torch.stack(states, dim=1).cpu(), strict=True):
            pooled[start + number] = states_of_sentence
    return torch.stack(pooled, dim=1)
