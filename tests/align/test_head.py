"""Which heads are a plain product, and that the loss is the model's own on every architecture."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, LlamaConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from midalign.align.head import IGNORED, frozen_head, label_losses

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}
LLAMA = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)
# Gemma 2 caps its logits, so the plain product with the head would be wrong.
CAPPED = Gemma2Config(
    **SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5
)
EVERY_SIZE: dict[str, Any] = SIZES | {
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    **{"moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Sizes under the names that most configurations use."""
LARGEST = 20_000_000
"""Parameters of a model that is small enough to run: other configurations name their sizes differently."""


def test_a_head_that_trains_or_caps_is_left_to_transformers():
    model = AutoModelForCausalLM.from_config(LLAMA)
    assert frozen_head(model) is None
    model.get_output_embeddings().weight.requires_grad = False
    assert frozen_head(model) is not None
    capped = AutoModelForCausalLM.from_config(CAPPED).requires_grad_(False)
    assert frozen_head(capped) is None


SCALED = {
    "falcon_h1": {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8},
    "recurrent_gemma": {"logits_soft_cap": 0.5, "lru_width": 32},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.1},
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_or_capped_logits_are_found_whatever_their_key(name):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **EVERY_SIZE | SCALED[name]))
    assert frozen_head(model.requires_grad_(False)) is None
    assert_loss_is_the_models_own(model.eval())


def assert_loss_is_the_models_own(model):
    """Compare `label_losses` with cross entropy of the model's logits."""
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = torch.cat([ids[:, 1:], torch.full((2, 1), IGNORED)], 1)
    labels[0, :3] = IGNORED
    with torch.no_grad():
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        losses = label_losses(model, inputs, labels, frozen_head(model))
        logits = model(**inputs, use_cache=False).logits.float()
        own = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(losses, own[labels.flatten() != IGNORED], rtol=1e-5, atol=1e-5)


def small(name):
    """Return a small random model of a type, or None where the common sizes do not give one."""
    torch.manual_seed(0)
    try:
        config = AutoConfig.for_model(name, **EVERY_SIZE)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if parameters > LARGEST:
            return None
        model = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
        model(input_ids=torch.arange(9).unsqueeze(0), use_cache=False)
    except Exception:
        return None
    return model


@pytest.mark.exhaustive
def test_loss_is_the_models_own_on_every_architecture():
    """Architectures that the common sizes do not make small are left out: about 50 of 178."""
    checked = 0
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        model = small(name)
        if model is not None:
            assert_loss_is_the_models_own(model)
            checked += 1
    assert checked >= 110
