"""The greedy loop against one whole forward pass a token, and its cache against transformers'."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicLayer

from midalign.evaluate.decode import (
    STEP,
    LayerWithRoom,
    _cache,
    _rows_to_keep,
    continue_greedily,
    shared_prefix,
)

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
WINDOW = {"layer_types": ["sliding_attention", "full_attention"] * 2}
MODELS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("llama", {}, True),
    "qwen3": ("qwen3", {}, True),
    "gemma3, its window wide": ("gemma3_text", {"sliding_window": 512, **WINDOW}, True),
    "gemma3, its window narrow": ("gemma3_text", {"sliding_window": 24, **WINDOW}, False),
    "mistral, its window narrow": ("mistral", {"sliding_window": 24}, False),
    "gpt_neox": ("gpt_neox", {}, True),
    "bloom": ("bloom", {"n_layer": 4, "n_head": 4}, True),
}


def tiny(name: str) -> Any:
    kind, more, _ = MODELS[name]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | more)).double().eval()


def one_by_one(model: Any, prompt: list[int], max_new: int, ends: torch.Tensor) -> list[int]:
    ids = list(prompt)
    for _ in range(max_new):
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ends[ids[-1]]:
            break
    return ids[len(prompt) :]


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
def test_continuations_are_those_of_whole_passes(name: str) -> None:
    model, draw = tiny(name), random.Random(1)
    ends = torch.zeros(96, dtype=torch.bool)
    ends[[5, 17, 40]] = True
    shared = [draw.randrange(1, 96) for _ in range(STEP + 5)]
    prompts = [[*shared, *draw.choices(range(1, 96), k=draw.randrange(1, 30))] for _ in range(21)]
    found = continue_greedily(model, prompts, max_new=40, ends=ends, is_over=None, pad=0)
    expected = [one_by_one(model, prompt, 40, ends) for prompt in prompts]
    assert [ids for ids, _ in found] == expected
    assert len({len(ids) for ids in expected}) > 1  # rows leave at different steps
    assert [finished for _, finished in found] == [bool(ends[ids[-1]]) for ids in expected]


@pytest.mark.parametrize("name", MODELS)
def test_what_prompts_share_is_computed_once_where_all_positions_are_kept(name: str) -> None:
    model, draw = tiny(name), random.Random(1)
    widths: list[tuple[int, int]] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    shared = [draw.randrange(1, 96) for _ in range(30)]
    prompts = [[*shared, own, 3] for own in range(1, 7)]
    ends = torch.zeros(96, dtype=torch.bool)
    continue_greedily(model, prompts, max_new=1, ends=ends, is_over=None, pad=0)
    assert widths == ([(1, 30), (6, STEP)] if MODELS[name][2] else [(6, 2 * STEP)])
    widths.clear()
    continue_greedily(model, [prompt[20:] for prompt in prompts], max_new=1, ends=ends, is_over=None, pad=0)
    assert widths == [(6, STEP)]  # ten tokens are not worth a call


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_common_prefix_leaves_each_prompt_a_token(prompts: list[list[int]]) -> None:
    begin = [prompts[0][:size] for size in range(min(map(len, prompts)))]
    longest = [start for start in begin if all(prompt[: len(start)] == start for prompt in prompts)][-1]
    assert shared_prefix(prompts) == longest


@given(st.lists(st.sampled_from(["one", "many", "choose", "repeat"]), max_size=12), st.integers(0, 99))
def test_a_layer_with_room_holds_what_transformers_layer_holds(steps: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    ours, theirs, rows = LayerWithRoom(), DynamicLayer(), 3
    for step in ("many", *steps):
        if step in ("one", "many"):
            keys = torch.randn(rows, 2, 1 if step == "one" else 2 * STEP + 3, 4)
            values = torch.randn(*keys.shape[:3], 6)
            given, expected = ours.update(keys, values), theirs.update(keys, values)
            assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
        elif step == "choose":
            chosen = torch.randperm(rows)[: max(1, rows - 1)]
            rows = len(chosen)
            ours.batch_select_indices(chosen), theirs.batch_select_indices(chosen)
        else:
            rows *= 2
            ours.batch_repeat_interleave(2), theirs.batch_repeat_interleave(2)
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_states_in_place_of_positions_are_left_to_transformers() -> None:
    config = AutoConfig.for_model(
        "qwen3_next", **SIZES, layer_types=["linear_attention", "full_attention"] * 2
    )
    cache, whole = _cache(config, 100)
    assert not whole
    assert [type(layer) is LayerWithRoom for layer in cache.layers] == [False, True, False, True]


def test_rows_shrink_in_steps() -> None:
    assert _rows_to_keep([False] * 64) == list(range(64))
    assert _rows_to_keep([True] * 40 + [False] * 24) == [*range(8), *range(40, 64)]
    assert _rows_to_keep([True] * 40 + [False] * 9) == [*range(7), *range(40, 49)]
    assert _rows_to_keep([True] * 40 + [False] * 5) == [0, 1, 2, *range(40, 45)]
    assert _rows_to_keep([True, False, True]) == [1]
    assert _rows_to_keep([True] * 20) == []
