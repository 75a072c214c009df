"""The Hugging Face engine gives lm-eval's outputs on tiny random models of many architectures."""

from itertools import islice
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny_models import make_base
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from midalign import harness
from midalign.evaluate.hf import MidalignHF

SIZES: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 24}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MODELS: dict[str, dict[str, Any]] = {
    "bloom": {"n_layer": 4, "n_head": 4},
    "falcon": {"multi_query": True},
    "gemma2": HEADS | WINDOW,
    "gemma3_text": HEADS | WINDOW,
    "cohere": HEADS,
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "kv_lora_rank": 8,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
    },
    "mamba": {"state_size": 8, "time_step_rank": 4},
    "mamba2": {"state_size": 8, "head_dim": 8, "num_heads": 8, "n_groups": 2, "expand": 2},
    "rwkv": {"attention_hidden_size": 32, "context_length": 1024},
    "recurrent_gemma": HEADS | {"attention_window_size": 24, "lru_width": 32},
    "qwen3_next": HEADS
    | EXPERTS
    | {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "gpt_oss": HEADS | EXPERTS | WINDOW,
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "num_experts": 4,
        "mamba_d_state": 8,
        "use_mamba_kernels": False,
    },
    "falcon_h1": HEADS
    | {
        "mamba_d_ssm": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_d_state": 8,
        "mamba_chunk_size": 16,
    },
}
ITEMS = 4


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(make_base(tmp_path_factory.mktemp("tokenizer")))


def tiny(name: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **SIZES | MODELS[name])).eval()


@pytest.fixture(scope="module")
def prompts() -> dict[int, list[str]]:
    """Prompts of a task's first items as lm-eval renders them, by number of examples."""
    task = harness.load_tasks(["midalign_mini_slot_en"])["midalign_mini_slot_en"]
    docs = list(islice(task.eval_docs, ITEMS))
    return {shots: [harness.prompt(task, doc, num_fewshot=shots) for doc in docs] for shots in (0, 3)}


def outputs(lm: Any, prompts: list[str]) -> list[str]:
    settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False, "temperature": 0.0}
    requests = [
        Instance("generate_until", {}, (prompt, dict(settings)), number, metadata=("task", number, 1))
        for number, prompt in enumerate(prompts)
    ]
    return list(lm.generate_until(requests, disable_tqdm=True))


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_lm_evals_engine(
    name: str, tokenizer: Any, prompts: dict[int, list[str]]
) -> None:
    theirs = HFLM(pretrained=tiny(name), tokenizer=tokenizer, batch_size=1)
    ours = [MidalignHF(pretrained=tiny(name), tokenizer=tokenizer, batch_size=rows) for rows in (1, ITEMS)]
    for asked in prompts.values():
        expected = outputs(theirs, asked)
        assert len(set(expected)) > 1
        for engine in ours:
            assert outputs(engine, asked) == expected
