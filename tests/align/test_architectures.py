"""Early exit on tiny random models of many architectures: states, what runs, gradients, recomputation."""

from typing import Any

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config

from midalign.align.trunk import decoder_blocks, states_at

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}
HEADS = {"head_dim": 8}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
MODELS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["llama", "gemma", "gemma2", "olmo2", "cohere", "granite", "glm4", "smollm3"], HEADS),
    "qwen2": {},
    "phi": {},
    "phi3": {},
    "stablelm": {},
    "starcoder2": {},
    "nemotron": {},
    "persimmon": {},
    **dict.fromkeys(["qwen3", "exaone4", "seed_oss", "helium", "bitnet"], HEADS),
    **dict.fromkeys(["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "gpt_oss"], HEADS | EXPERTS),
    "mistral": {"sliding_window": 4},
    "gemma3_text": HEADS | {"sliding_window": 4},
    "gpt_neox": {},
    "gptj": GPT | {"rotary_dim": 4},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neo": {
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 4,
    },
    "falcon": {"alibi": True},
    "bloom": {"n_layer": 4, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 64},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 4, "attention_heads": 4},
}
K = 2


def tiny(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SIZES | MODELS[name])).eval()


@pytest.mark.parametrize("name", MODELS)
def test_early_exit(name: str, inputs: dict[str, torch.Tensor]) -> None:
    model = tiny(name)
    with torch.no_grad():
        whole = model(**inputs, output_hidden_states=True, use_cache=False)
        for layer in range(4):
            assert torch.equal(states_at(model, inputs, layer), whole.hidden_states[layer])
    ran: list[object] = []
    for index, block in enumerate(decoder_blocks(model)):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    model.get_output_embeddings().register_forward_pre_hook(lambda *_: ran.append("head"))
    states_at(model, inputs, K).square().sum().backward()
    assert ran == list(range(K))
    touched = [any(p.grad is not None for p in block.parameters()) for block in decoder_blocks(model)]
    assert touched == [index < K for index in range(4)]


@pytest.mark.parametrize("name", MODELS)
def test_adapters_get_the_same_gradients_with_recomputation(
    name: str, inputs: dict[str, torch.Tensor]
) -> None:
    model = peft.get_peft_model(tiny(name), peft.LoraConfig(target_modules="all-linear", r=2)).train()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:  # zeros would leave the other factor without gradients
            torch.nn.init.normal_(parameter, std=0.1)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(2)  # recomputation must drop out the same
        states_at(model, inputs, K).square().sum().backward()
        named = model.named_parameters()
        return {n: p.grad.clone() for n, p in named if p.requires_grad and p.grad is not None}

    plain = gradients()
    assert plain
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    recomputed = gradients()
    assert recomputed.keys() == plain.keys()
    for name_of, gradient in plain.items():
        torch.testing.assert_close(recomputed[name_of], gradient, msg=name_of)


def test_the_blocks_of_a_model_that_sees_are_its_text_decoders() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config=SIZES | HEADS,
        vision_config=vision | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=50,
        eoi_token_index=51,
        image_token_index=52,
    )
    model = AutoModelForCausalLM.from_config(config)
    assert decoder_blocks(model) is model.get_decoder().layers
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    assert decoder_blocks(wrapped) is model.get_decoder().layers
