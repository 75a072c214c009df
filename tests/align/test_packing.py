"""Packed rows against the same samples alone: losses, gradients, states; who may see whom."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st
from test_architectures import tiny

from midalign.align import head, packing
from midalign.align.head import frozen_head, label_losses
from midalign.align.packing import attention_windows, block_mask, can_pack, model_inputs
from midalign.align.pooling import last_by_owner, mean_by_owner
from midalign.align.rows import PADDING, SHARED, common_prefix_length, lay_out
from midalign.align.trunk import states_at
from midalign.train.stream import Sample, answers

PREFIX = [1, 40, 41]
SAMPLES = [
    Sample([*PREFIX, 5, 6, 7, 8], [9, 10, 2]),
    Sample([*PREFIX, 5, 11], [12, 2]),
    Sample([*PREFIX, 13], [14, 15, 16, 17, 2]),
    Sample([*PREFIX, *range(20, 32)], [33, 2]),
]
WEIGHTS = [0.1, 0.2, 0.3, 0.4]
PACKED = ["llama", "qwen2", "qwen3", "gemma3_text", "gpt_neox", "mistral", "gemma2", "mixtral", "phi3", "opt"]
ALONE = ["bloom", "mpt", "falcon"]  # ALiBi counts a key's place in the row


def one_by_one(model):
    """Weighted losses of all answer tokens, each sample alone and unpadded, from full logits."""
    total = 0.0
    for sample, weight in zip(SAMPLES, WEIGHTS, strict=True):
        logits = model(input_ids=torch.tensor([sample.prompt + sample.target])).logits
        logits = logits[0, len(sample.prompt) - 1 : -1]
        total = total + weight * F.cross_entropy(logits, torch.tensor(sample.target), reduction="sum")
    return total


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", PACKED)
def test_loss_and_gradients_are_those_of_samples_alone(name, attention, monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 4)
    model = tiny(name)
    model.set_attn_implementation(attention)
    model.get_output_embeddings().weight.requires_grad = False
    weights = [p for p in model.parameters() if p.requires_grad]
    assert can_pack(model)
    batch = answers({"task": SAMPLES}, WEIGHTS, 0, width=24)
    assert 1 < len(batch["input_ids"]) < len(SAMPLES)
    inputs = model_inputs(batch, attention_windows(model), torch.float32)

    expected = one_by_one(model)
    wanted = torch.autograd.grad(expected, weights, allow_unused=True)
    losses = label_losses(model, inputs, batch["labels"], frozen_head(model))
    loss = (losses * batch["weights"][batch["weights"] != 0]).sum()
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    assert loss.item() == pytest.approx(expected.item(), rel=3e-5)
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=3e-5, atol=3e-6)


@pytest.mark.parametrize("name", PACKED)
def test_bases_in_half_precision_are_packed_too(name, monkeypatch):
    """One whose mask is not heeded is not."""
    model = tiny(name).bfloat16()
    assert can_pack(model)
    monkeypatch.setattr(packing, "block_mask", lambda owner, *_: block_mask(owner.clamp(max=0), *_))
    assert not can_pack(model)


@pytest.mark.parametrize("name", ALONE)
def test_what_cannot_be_packed_is_found_out_and_padded(name):
    model = tiny(name)
    assert not can_pack(model)
    batch = answers({"task": SAMPLES}, WEIGHTS, 0, width=None)
    assert len(batch["input_ids"]) == len(SAMPLES)
    with torch.no_grad():
        inputs = model_inputs(batch, None, torch.float32)
        losses = label_losses(model, inputs, batch["labels"], frozen_head(model))
        loss = (losses * batch["weights"][batch["weights"] != 0]).sum()
        assert loss.item() == pytest.approx(one_by_one(model).item(), rel=3e-5)


def test_pooled_states_are_those_of_sentences_alone():
    model = tiny("gemma3_text")
    sentences = [[1, 5, 6, 7], [1, 8, 9], [1, *range(10, 30)], [1, 31]]
    rows = lay_out([sentences], [1], 0, width=30)
    with torch.no_grad():
        inputs = model_inputs(vars(rows), attention_windows(model), torch.float32)
        states = states_at(model, inputs, 2)
        for number, sentence in enumerate(sentences):
            alone = states_at(model, {"input_ids": torch.tensor([sentence])}, 2)[0]
            with_bos = mean_by_owner(states, rows.owner, rows.owner != PADDING, 4)[number]
            torch.testing.assert_close(with_bos, alone.mean(0), rtol=1e-4, atol=1e-6)
            without = mean_by_owner(states, rows.owner, rows.owner >= 0, 4)[number]
            torch.testing.assert_close(without, alone[1:].mean(0), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(last_by_owner(states, rows.owner, 4)[number], alone[-1])


groups = st.lists(
    st.lists(st.lists(st.integers(3, 9), min_size=1, max_size=30), max_size=8).map(
        lambda group: [[1, 2, *sample] for sample in group]
    ),
    min_size=1,
    max_size=3,
).filter(any)


@given(groups, st.integers(0, 2), st.booleans())
def test_every_token_of_every_sample_has_its_place(samples, shared, packed):
    rows = lay_out(samples, [shared] * len(samples), 0, 30 if packed else None)
    flat = [sample for group in samples for sample in group]
    group_of = [number for number, group in enumerate(samples) for _ in group]
    found = {}
    for ids, positions, owner in zip(*(t.tolist() for t in vars(rows).values()), strict=True):
        begin = [ids[i] for i, own in enumerate(owner) if own == SHARED]
        members = {own for own in owner if own >= 0}
        assert len({group_of[m] for m in members}) == 1
        assert packed or len(members) == 1
        for member in members:
            places = [i for i, own in enumerate(owner) if own == member]
            assert places == list(range(places[0], places[-1] + 1))
            assert [positions[i] for i in places] == list(range(len(begin), len(begin) + len(places)))
            found[member] = begin + [ids[i] for i in places]
    assert found == dict(enumerate(flat))


@given(groups, st.integers(0, 2), st.sampled_from([None, 3]))
def test_a_token_sees_its_own_past_and_no_other(samples, shared, window):
    rows = lay_out(samples, [shared] * len(samples), 0, width=30)
    mask = block_mask(rows.owner, rows.position_ids, window)
    for row in range(len(mask)):
        owner, position = rows.owner[row].tolist(), rows.position_ids[row].tolist()
        for query, key in ((q, k) for q in range(0, len(owner), 5) for k in range(len(owner))):
            sees = owner[key] in (owner[query], SHARED) and key <= query and owner[key] != PADDING
            sees = sees and (window is None or position[query] - position[key] < window)
            assert bool(mask[row, 0, query, key]) == (sees or query == key)


def test_a_prompt_keeps_a_token_of_its_own():
    assert common_prefix_length([[1, 2, 3], [1, 2, 4]]) == 2
    assert common_prefix_length([[1, 2], [1, 2]]) == 1
    assert common_prefix_length([[1], [1, 2]]) == 0
