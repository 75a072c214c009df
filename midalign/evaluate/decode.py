"""Greedy loop of the Hugging Face engine: the shared prefix is computed once, finished rows are dropped."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from midalign.evaluate import constrain
from midalign.rounding import round_up

STEP = 16
"""Prompt lengths and row counts are multiples of it, since oneDNN keeps a primitive per shape."""


@torch.inference_mode()
def continue_greedily(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    max_new: int,
    ends: Tensor,
    is_over: Callable[[list[int]], bool] | None,
    pad: int,
    constraints: constrain.Constraints | None = None,
) -> list[tuple[list[int], bool]]:
    """Return the most likely continuation of each prompt of a batch.

    Args:
        prompts: token ids. Their common prefix is computed once if the architecture allows it. The rest is
            padded on the left to a multiple of STEP.
        max_new: maximum number of new tokens.
        ends: (vocabulary,) bool, the tokens that end a row.
        is_over: called with the ids of a row's continuation so far. True ends the row.
        pad: token id for padding.
        constraints: those of the rows, at their start. None allows every token.

    Returns:
        For each prompt its continuation, including the ending token, and whether it has ended.
    """
    device = ends.device
    # 1. Models with other states than keys and values answer row by row.
    if not takes_cache(model):
        return [
            _continue_alone(model, prompt, row, max_new, ends, is_over, pad, constraints)
            for row, prompt in enumerate(prompts)
        ]
    # 2. Compute the common prefix once, and repeat its keys and values for each row.
    cache, whole = _cache(model.config.get_text_config(decoder=True), max(map(len, prompts)) + STEP + max_new)
    shared = shared_prefix(prompts) if whole else []
    if len(shared) >= STEP and len(prompts) > 1:
        prefix = torch.tensor([shared], device=device)
        model(input_ids=prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
    else:
        shared = []
    # 3. Pad the rest of the prompts on the left. Padding has position 0 and is masked.
    rests = [prompt[len(shared) :] for prompt in prompts]
    width = round_up(max(map(len, rests)), STEP)
    ids = torch.tensor([[pad] * (width - len(rest)) + rest for rest in rests], device=device)
    mask = torch.tensor(
        [[1] * len(shared) + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests], device=device
    )
    positions = (mask.cumsum(1) - 1).clamp(min=0)[:, len(shared) :]
    # 4. Choose a token per row and step, until all rows have ended.
    answers: list[list[int]] = [[] for _ in prompts]
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
                answers[row].append(token)
                finished[row] = end or (is_over is not None and is_over(answers[row]))
        # 5. Drop rows that have ended.
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
    return list(zip(answers, finished, strict=True))


def takes_cache(model: Any) -> bool:
    """Return whether batches can share transformers' cache.

    Mamba and RWKV have other states. RecurrentGemma keeps its own state, and would treat padding as text.
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
    is_over: Callable[[list[int]], bool] | None,
    pad: int,
    constraints: constrain.Constraints | None,
) -> tuple[list[int], bool]:
    """Continue one prompt in transformers' loop, which carries the state of every architecture.

    The prompt is not padded, since a recurrent state would treat padding as text.
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
        finished = bool(ends[token]) or (is_over is not None and is_over(answer))
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

    These are the unfinished rows and as many finished ones as fill them up to a multiple of STEP, or to a
    power of two if they are few.
    """
    unfinished = [i for i, done in enumerate(finished) if not done]
    spare = (i for i, done in enumerate(finished) if done)
    step = STEP if len(unfinished) > STEP // 2 else 1 << max(len(unfinished) - 1, 0).bit_length()
    count = min(round_up(len(unfinished), step), len(finished))
    return sorted([*unfinished, *(next(spare) for _ in range(count - len(unfinished)))])


def shared_prefix(prompts: Sequence[list[int]]) -> list[int]:
    """Return the longest common prefix of the prompts, leaving each at least one token of its own."""
    first, last = min(prompts), max(prompts)
    shortest = min(map(len, prompts))
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: min(next(differ, shortest), shortest - 1)]


class LayerWithRoom(DynamicLayer):
    """Keys and values of a layer, (rows, heads, positions, dimensions), with room for more positions.

    Transformers' own layer copies all positions for every token, which takes more than half of a small
    model's time.
    """

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the states of new positions, and return those of all positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # 1. Make room for new positions and 2 * STEP more, unless there is enough.
        start = self.get_seq_length()
        end = start + key_states.shape[2]
        # After rows were selected or repeated, `keys` is a new tensor and no longer a view of the room.
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
        # 2. Write the new positions, and return views of all of them.
        keys, values = self.room
        keys[:, :, start:end], values[:, :, start:end] = key_states, value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


def _cache(config: Any, positions: int) -> tuple[DynamicCache, bool]:
    """Return a cache for at most `positions`, and whether each of its layers keeps all of them.

    After a prefix, a layer with a shorter window, or with a state instead of positions, cannot skip padding.
    """
    cache = DynamicCache(config=config)
    for index, layer in enumerate(cache.layers):
        window = getattr(layer, "sliding_window", positions)
        if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) and window >= positions:
            cache.layers[index] = LayerWithRoom()
    return cache, all(type(layer) is LayerWithRoom for layer in cache.layers)
