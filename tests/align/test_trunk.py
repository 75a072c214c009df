"""Early exit against transformers' own hidden states, on small models of several architectures."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPTNeoXConfig, LlamaConfig, Qwen3Config

from midalign.align.trunk import decoder_blocks, layer_index, pooled_sentences, states_at, states_at_each

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "bos_token_id": 1,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8),
    "gemma3": Gemma3TextConfig(
        **SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=4
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES, num_attention_heads=4),
}


@pytest.fixture(params=list(CONFIGS))
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()


def test_states_are_transformers_hidden_states(model, inputs):
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states
        for layer in range(4):
            torch.testing.assert_close(states_at(model, inputs, layer), expected[layer], rtol=0, atol=0)
        assert all(
            map(torch.equal, states_at_each(model, inputs, [3, 0, 2]), (expected[i] for i in (3, 0, 2)))
        )
        # The last of transformers' states has gone through the final norm; ours has not.
        last = states_at(model, inputs, 4)
    assert last.shape == expected[4].shape
    assert not torch.allclose(last, expected[4])


def test_blocks_above_and_the_head_do_not_run(model, inputs):
    ran = []
    for index, block in enumerate(decoder_blocks(model)):
        block.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: ran.append("head"))
    states_at(model, inputs, 2)
    assert ran == [0, 1]  # block 2 is left before anything of it runs, other hooks included
    model(input_ids=inputs["input_ids"])  # the hooks of the early exit are gone
    assert ran[2:] == [0, 1, 2, 3, "head"]


def test_the_models_own_hooks_see_the_states_as_its_output(model, inputs):
    """FSDP gathers gradients from there; the forward that a wrapper set is found again afterwards."""
    seen = []
    model.register_forward_hook(lambda _, __, output: seen.append(output))
    forward = model.forward
    states = states_at(model, inputs, 2)
    assert seen[0][0] is states
    assert model.forward == forward
    model.forward = wrapped = lambda **keywords: forward(**keywords)
    torch.testing.assert_close(states_at(model, inputs, 2), states)
    assert model.forward is wrapped


def test_recomputation_gives_the_same_gradients(model, inputs):
    def gradients():
        model.zero_grad()
        states_at(model.train(), inputs, 2).square().sum().backward()
        return [p.grad.clone() for p in decoder_blocks(model)[:2].parameters()]

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_pooling_leaves_out_padding_and_bos(model, batch, inputs):
    ids, mask = batch
    sentences = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    (pooled,) = pooled_sentences(model, sentences, [2], 0, sink=1)
    with torch.no_grad():
        states = states_at(model, inputs, 2)
    torch.testing.assert_close(pooled[0], states[0, 1:].mean(0))
    torch.testing.assert_close(pooled[1], states[1, 1:6].mean(0))


def test_layers():
    assert layer_index("middle", 18) == 9
    assert layer_index(18, 18) == 18
    assert layer_index(0.25, 18) == 4
    with pytest.raises(ValueError, match="has 18 blocks"):
        layer_index(19, 18)
