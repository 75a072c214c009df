"""Which heads are a plain product, and that the loss is the model's own on every architecture."""

import re

import pytest
import torch
from small_models import COMMON, NOT_BUILT, OWN, SIZES
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config, LlamaConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from midalign.align.head import IGNORED, frozen_head, label_losses
from midalign.analyze import states
from midalign.errors import BaseModelError
from midalign.evaluate import live
from midalign.train.build import check_causal

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


SCALED = {
    "falcon_h1": {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8},
    "recurrent_gemma": {"logits_soft_cap": 0.5, "lru_width": 32},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.1},
}


@pytest.mark.parametrize("name", SCALED)
def test_scaled_or_capped_logits_are_found_whatever_their_key(name):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **COMMON | SCALED[name]))
    assert frozen_head(model.requires_grad_(False)) is None
    assert_loss_is_the_models_own(model.eval())


ENCODERS = {
    *("bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie"),
    *("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roformer", "xlm"),
    *("xlm-roberta", "xlm-roberta-xl"),
}
"""Architectures in which earlier tokens see later ones, unless their configuration says otherwise."""
WITHOUT_STATES = {
    *("deepseek_v4", "gemma3n_text", "hy_v4"),  # several streams per token
    *("cpmant", "prophetnet", "xlnet"),  # other tokens than the input's, or another order of dimensions
    *("blt", "git", "hrm_text"),  # blocks of several kinds, some of which text alone does not run
}
"""Architectures without one hidden state per token and layer where midalign reads it."""
REJECTED = ENCODERS | WITHOUT_STATES


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


def test_analysis_rejects_a_base_with_several_streams_per_token(monkeypatch, tmp_path):
    """Their means would be of other numbers than a token's state."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma3n_text", **OWN["gemma3n_text"]))
    monkeypatch.setattr(live, "load", lambda *_: (model, None))
    texts = {"en": ["good morning"], "de": ["guten Morgen"]}
    with pytest.raises(BaseModelError, match=r"8 tokens have states of shape \(4, 1, 8, 32\)"):
        states.embed_languages("mini", None, texts, tmp_path, ["cpu"], lambda *_: None)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {*NOT_BUILT}))
def test_loss_is_the_models_own_or_the_architecture_is_rejected(name):
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **OWN.get(name, COMMON))
    model = AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()
    if name in REJECTED:
        with pytest.raises(BaseModelError, match=re.escape(f"{name!r} ({type(model).__name__})")):
            check_causal(name, model)
        return
    check_causal(name, model)
    assert_loss_is_the_models_own(model)
