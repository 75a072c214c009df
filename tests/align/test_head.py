"""Which heads are a plain product; their loss is tested with packed rows."""

from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from midalign.align.head import frozen_head

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)
# Gemma 2 caps its logits, so the plain product with the head would be wrong.
CAPPED = Gemma2Config(
    **SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5
)


def test_a_head_that_trains_or_caps_is_left_to_transformers():
    model = AutoModelForCausalLM.from_config(LLAMA)
    assert frozen_head(model) is None
    model.get_output_embeddings().weight.requires_grad = False
    assert frozen_head(model) is not None
    capped = AutoModelForCausalLM.from_config(CAPPED).requires_grad_(False)
    assert frozen_head(capped) is None
