"""The Hugging Face engine's greedy loop: what prompts share is computed once, and rows leave as they end."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from midalign.evaluate import constrain

STEP = 16
"""Prompt lengths and row counts are multiples of it: oneDNN keeps a primitive for every shape it has seen."""


@torch.inference_mode()
def continue_greedily(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    max_new: int,
    ends: Tensor,
    said: Callable[[list[int]], bool] | None,
    pad: int,
    constraints: constrain.Constraints | None = None,
) -> list[tuple[list[int], bool]]:
    """Return the most likely continuation of each prompt of a batch.

    Args:
        prompts: token ids. What all of them begin with is computed once, where the architecture allows it;
            the rest is padded on the left, to a multiple of STEP.
        max_new: tokens at most.
        ends: (vocabulary,) bool, the tokens that end a row.
        said: told the ids of a row's continuation so far; True ends it.
        pad: token id for padding.
        constraints: of the rows, at their start; None lets every token be said.

    Returns:
        For each prompt its continuation, the ending token included, and whether it came to an end.
    """
    device = ends.device
    if not takes_cache(model):
        return [
            _continue_alone(model, prompt, row, max_new, ends, said, pad, constraints)
            for row, prompt in enumerate(prompts)
        ]
    cache, whole = _cache(model.config.get_text_config(decoder=True), max(map(len, prompts)) + STEP + max_new)
    shared = shared_prefix(prompts) if whole else []
    if len(shared) >= STEP and len(prompts) > 1:
        prefix = torch.tensor([shared], device=device)
        model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
    else:
        shared = []
    rests = [prompt[len(shared) :] for prompt in prompts]
    width = -(-max(map(len, rests)) // STEP) * STEP
    ids = torch.tensor([[pad] * (width - len(rest)) + rest for rest in rests], device=device)
    mask = torch.tensor(
        [[1] * len(shared) + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device
    )
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, len(shared) :]
    said_so_far: list[list[int]] = [[] for _ in prompts]
    finished = [False] * len(prompts)
    rows = list(range(len(prompts)))
    for _ in range(max_new):
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if constraints:
            constraints.apply(logits, rows)
        tokens = logits.max(-1).indices  # argmax takes five times as long on bf16 and a large vocabulary
        ended = ends[tokens].tolist()
        for row, token, end in zip(rows, tokens.tolist(), ended, strict=True):
            if not finished[row]:
                if constraints:
                    constraints.accept(row, token)
                said_so_far[row].append(token)
                finished[row] = end or (said is not None and said(said_so_far[row]))
        keep = _rows_to_keep([finished[row] for row in rows])
        if not keep:
            break
        if len(keep) < len(rows):
            kept = torch.tensor(keep, device=device)
            cache.batch_select_indices(kept)
            rows, tokens, mask, positions = [rows[i] for i in keep], tokens[kept], mask[kept], positions[kept]
        ids = tokens.unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        positions = positions[:, -1:] + 1
    return list(zip(said_so_far, finished, strict=True))


def takes_cache(model: Any) -> bool:
    """Return whether batches can share transformers' cache.

    Mamba and RWKV take states of other kinds. RecurrentGemma keeps its own, and takes padding for text.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base.config.model_type == "recurrent_gemma":
        return False
    return "past_key_values" in inspect.signature(type(base).forward).parameters


def _continue_alone(
    model: Any,
    prompt: list[int],
    row: int,
    max_new: int,
    ends: Tensor,
    said: Callable[[list[int]], bool] | None,
    pad: int,
    constraints: constrain.Constraints | None,
) -> tuple[list[int], bool]:
    """Continue one prompt in transformers' loop, which carries the state of every architecture.

    The prompt is not padded: a recurrent state would take the padding for text.
    """
    answer: list[int] = []
    finished = False

    def constrained(_: Tensor, logits: Tensor) -> Tensor:
        if constraints:
            constraints.apply(logits, [row])
        return logits

    def stop(ids: Tensor, *_: Any, **__: Any) -> Tensor:
        nonlocal finished
        token = int(ids[0, -1])
        answer.append(token)
        if constraints:
            constraints.accept(row, token)
        finished = bool(ends[token]) or (said is not None and said(answer))
        return torch.tensor([finished], device=ids.device)

    ids = torch.tensor([prompt], device=ends.device)
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=GenerationConfig(max_new_tokens=max_new, do_sample=False, pad_token_id=pad),
        logits_processor=LogitsProcessorList([constrained]),
        stopping_criteria=StoppingCriteriaList([stop]),
    )
    return answer, finished


def _rows_to_keep(finished: list[bool]) -> list[int]:
    """Return the indices of rows to continue with.

    These are the unfinished rows, filled up with others to a multiple of STEP, or to a power of two where
    they are fewer.
    """
    going = [i for i, done in enumerate(finished) if not done]
    spare = (i for i, done in enumerate(finished) if done)
    step = STEP if len(going) > STEP // 2 else 1 << max(len(going) - 1, 0).bit_length()
    wanted = min(-(-len(going) // step) * step, len(finished))
    return sorted([*going, *(next(spare) for _ in range(wanted - len(going)))])


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the longest common prefix of the prompts, leaving each at least one token of its own."""
    first, last = min(prompts), max(prompts)
    shortest = min(map(len, prompts))
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: min(next(differ, shortest), shortest - 1)]


class LayerWithRoom(DynamicLayer):
    """Keys and values of a layer, (rows, heads, positions, dimensions), in memory with room for more of them.

    Transformers' own layer copies all of them for every token: more than half of a small model's time.
    """

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append states of new positions; returns those of all positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        # `keys` is another tensor than the room's beginning after rows have been chosen or repeated.
        same = self.room is not None and self.keys.data_ptr() == self.room[0].data_ptr()
        if not same or self.room is None or end > self.room[0].shape[2]:
            rows, heads, _, size = key_states.shape
            shape = rows, heads, end + 2 * STEP
            keys, values = (
                key_states.new_empty(*shape, size),
                value_states.new_empty(*shape, value_states.shape[3]),
            )
            if start:
                keys[:, :, :start], values[:, :, :start] = self.keys, self.values
            self.room = keys, values
        keys, values = self.room
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def _cache(config: Any, positions: int) -> tuple[DynamicCache, bool]:
    """Return a cache for at most `positions`, and whether each of its layers keeps all of them.

    A layer with a shorter window, or with a state instead of positions, cannot continue with padding after a
    prefix.
    """
    cache = DynamicCache(config=config)
    for index, layer in enumerate(cache.layers):
        window = getattr(layer, "sliding_window", positions)
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and window >= positions:
            cache.layers[index] = LayerWithRoom()
    return cache, all(type(layer) is LayerWithRoom for layer in cache.layers)
