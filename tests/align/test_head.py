"""The loss through a frozen head against transformers' own logits and torch's cross entropy."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from midalign.align import head
from midalign.align.head import answer_loss, frozen_head
from midalign.train.stream import IGNORED, Sample, pad_left

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA = LlamaConfig(**SIZES, num_attention_heads=4, num_key_value_heads=2)
# Gemma 2 caps its logits, so the plain product with the head would be wrong.
CAPPED = Gemma2Config(
    **SIZES, num_attention_heads=4, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5
)
SAMPLES = [Sample([5, 6, 7, 8], [9, 10, 2]), Sample([5, 11], [12, 2]), Sample([13], [14, 15, 16, 17, 2])]


def one_by_one(model):
    """Mean over all answer tokens, each sample alone and without padding, from full logits."""
    total, count = 0.0, 0
    for sample in SAMPLES:
        ids = torch.tensor([sample.prompt + sample.target])
        logits = model(input_ids=ids).logits[0, len(sample.prompt) - 1 : -1]
        total = total + F.cross_entropy(logits, torch.tensor(sample.target), reduction="sum")
        count += len(sample.target)
    return total / count


@pytest.mark.parametrize("config", [LLAMA, CAPPED], ids=["llama", "gemma2"])
def test_loss_and_gradients_are_those_of_samples_alone(config, monkeypatch):
    monkeypatch.setattr(head, "CHUNK", 4)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.get_output_embeddings().weight.requires_grad = False
    batch = pad_left(SAMPLES, pad=0)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
    weights = [p for p in model.parameters() if p.requires_grad]

    expected = one_by_one(model)
    wanted = torch.autograd.grad(expected, weights)
    loss = answer_loss(model, inputs, batch["labels"], IGNORED, frozen_head(model))
    found = torch.autograd.grad(loss, weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_a_head_that_trains_or_caps_is_left_to_transformers():
    model = AutoModelForCausalLM.from_config(LLAMA)
    assert frozen_head(model) is None
    model.get_output_embeddings().weight.requires_grad = False
    assert frozen_head(model) is not None
    capped = AutoModelForCausalLM.from_config(CAPPED).requires_grad_(False)
    assert frozen_head(capped) is None
