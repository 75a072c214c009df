"""Configurations that make a small decoder of every architecture in transformers."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
}
COMMON: dict[str, Any] = SIZES | {
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    **{"moe_intermediate_size": 16, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Sizes under the names that most configurations use."""

LATENT_ATTENTION = COMMON | {
    **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4},
    **{"kv_lora_rank": 16, "q_lora_rank": 16},
}
EXPERTS = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
INDEXER = {"index_n_heads": 4, "index_head_dim": 16, "index_topk": 8}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_expand": 2}
LINEAR_ATTENTION = COMMON | {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16},
    "layer_types": ["linear_attention", "full_attention"],
}
GPT = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
ENCODER_DECODER = {
    **{"vocab_size": 60, "d_model": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48},
    **{"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48},
}
GEMMA_3N = COMMON | {"vocab_size_per_layer_input": 60, "hidden_size_per_layer_input": 8}
GEMMA_4 = GEMMA_3N | {
    **{"num_kv_shared_layers": 0, "global_head_dim": 8},
    "layer_types": ["sliding_attention", "full_attention"],
}
BLOCKS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = BLOCKS | {"image_size": 28, "patch_size": 14}
QWEN_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
BYTES = BLOCKS | {"vocab_size": 60, "hidden_size_global": 32}

OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(["minicpm3", "youtu"], LATENT_ATTENTION),
    **dict.fromkeys(
        ["axk1", "axk2", "deepseek_v2", "deepseek_v3", "glm4_moe_lite"], LATENT_ATTENTION | EXPERTS
    ),
    **dict.fromkeys(["deepseek_v32", "glm_moe_dsa"], LATENT_ATTENTION | EXPERTS | INDEXER),
    "longcat_flash": LATENT_ATTENTION | {
        **{"ffn_hidden_size": 48, "expert_ffn_hidden_size": 16, "n_routed_experts": 4, "moe_topk": 2},
        **{"num_layers": 2, "zero_expert_num": 1},
    },
    "dots1": COMMON | EXPERTS | {"n_shared_experts": 1},
    "bamba": COMMON | MAMBA | {"attn_layer_indices": [1]},
    "granitemoehybrid": COMMON | MAMBA | {
        **{"layer_types": ["mamba", "attention"], "shared_intermediate_size": 48},
    },
    "mamba2": SIZES | {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 1},
    "lfm2_moe": COMMON | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "zamba": COMMON | {
        **{"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "mamba_dt_rank": 4},
        **{"layer_types": ["mamba", "hybrid"] * 2, "n_mamba_heads": 2},
        **{"attention_hidden_size": 64, "attention_head_dim": 16},
    },
    "zamba2": COMMON | {
        **{"layers_block_type": ["mamba", "hybrid"], "layer_types": ["mamba", "hybrid"]},
        **{"n_mamba_heads": 4, "mamba_d_state": 8, "mamba_ngroups": 1, "num_mem_blocks": 1},
        "hybrid_layer_ids": [1],
    },
    "zaya": COMMON | {"num_experts_per_tok": 1},
    "cohere_compass_text": COMMON | {
        "layer_types": ["full_attention"] * 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
        },
    },
    **dict.fromkeys(["codegen", "gptj"], GPT),
    "gpt_neo": {
        **{"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 4},
        "attention_types": [[["global", "local"], 1]],
    },
    "dbrx": {
        **{"vocab_size": 60, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
    },
    "falcon": {
        **{key: value for key, value in COMMON.items() if key != "head_dim"},
        **{"new_decoder_architecture": True, "num_kv_heads": 2},
    },
    "blt": {
        **{"vocab_size": 60, "patch_in_forward": False, "encoder_hash_byte_group_size": [2]},
        **{"encoder_hash_byte_group_vocab": 50, "encoder_hash_byte_group_nb_functions": 1},
        **{f"{part}_config": BYTES for part in ("patcher", "encoder", "decoder", "global")},
    },
    **dict.fromkeys(
        ["bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus",
         "plbart", "whisper"],
        ENCODER_DECODER,
    ),
    "prophetnet": {
        **{"vocab_size": 60, "hidden_size": 32, "is_decoder": True, "is_encoder_decoder": False},
        **{"num_encoder_layers": 2, "num_encoder_attention_heads": 4, "encoder_ffn_dim": 48},
        **{"num_decoder_layers": 2, "num_decoder_attention_heads": 4, "decoder_ffn_dim": 48},
    },
    "xlnet": {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "xmod": COMMON | {"is_decoder": True, "languages": ["en_XX"], "default_language": "en_XX"},
    "reformer": SIZES | {
        **{"is_decoder": True, "attn_layers": ["local", "local"], "num_attention_heads": 4},
        **{"attention_head_size": 8, "feed_forward_size": 48, "axial_pos_embds": False},
        **{"max_position_embeddings": 64, "local_attn_chunk_length": 8},
    },
    "gemma3": {"text_config": COMMON, "vision_config": VISION, "mm_tokens_per_image": 4},
    "gemma3n_text": GEMMA_3N | {
        **{"num_hidden_layers": 4, "num_kv_shared_layers": 0, "laurel_rank": 4},
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": GEMMA_4,
    "gemma4": {"text_config": GEMMA_4, "vision_config": BLOCKS, "audio_config": None},
    "gemma4_unified": {
        "text_config": GEMMA_4,
        "vision_config": {"mm_embed_dim": 32, "mm_posemb_size": 16},
        "audio_config": None,
    },
    "emu3": {
        "text_config": COMMON,
        "vq_config": {
            **{"codebook_size": 8, "embed_dim": 4, "latent_channels": 4, "base_channels": 32},
            **{"channel_multiplier": [1], "num_res_blocks": 1, "attn_resolutions": []},
            **{"hidden_size": 32, "num_attention_heads": 1},
        },
        "vocabulary_map": {"<image>": 5},
    },
    "llama4": {
        "text_config": COMMON | {"intermediate_size_mlp": 48},
        "vision_config": VISION | {
            **{"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
        },
    },
    "mllama": {
        "text_config": COMMON | {"cross_attention_layers": [0]},
        "vision_config": VISION | {
            **{"num_global_layers": 1, "vision_output_dim": 64, "intermediate_layers_indices": [0]}
        },
    },
    "qwen3_5": {"text_config": LINEAR_ATTENTION, "vision_config": QWEN_VISION},
    "qwen3_5_moe": {"text_config": LINEAR_ATTENTION, "vision_config": QWEN_VISION},
    "qwen4_exp": {
        "text_config": LINEAR_ATTENTION | {
            **{"indexer_budget": 16, "indexer_compress_ratio": 4},
            **{"indexer_n_heads": 2, "indexer_head_dim": 8, "indexer_kv_heads": 1},
        },
        "vision_config": QWEN_VISION,
    },
    "got_ocr2": {
        "text_config": COMMON | {"model_type": "qwen2"},
        "vision_config": VISION | {
            **{"image_size": 32, "patch_size": 16, "output_channels": 16, "mlp_dim": 48},
            **{"global_attn_indexes": [1], "window_size": 2},
        },
    },
    "git": COMMON | {"vision_config": VISION},
    "phi4_multimodal": COMMON | {
        "vision_config": VISION,
        "audio_config": BLOCKS | {"num_blocks": 1},
    },
}  # fmt: skip
"""Sizes of the other architectures, by model type."""

NOT_BUILT = {
    "gemma3n": "its vision tower needs the package timm",
    "gemma4_assistant": "AutoModelForCausalLM does not know it",
    "gemma4_unified_assistant": "AutoModelForCausalLM does not know it",
    "musicgen": "composed of three models, and generates audio",
    "musicgen_melody": "composed of three models, and generates audio",
}
"""Architectures without a small model, and why."""
