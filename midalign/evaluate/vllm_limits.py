"""Models that vLLM does not serve on a GPU, found before any weights are loaded.

vLLM finds most of these while it answers, and its process dies of them. The rules are those of vLLM 0.32.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from midalign import adapter as adapters
from midalign.errors import AdapterError, EngineError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `max_lora_rank`: MaxLoRARanks in vllm/config/lora.py."""

LORA_DTYPES = ("float16", "half", "bfloat16")
"""Dtypes of LoRA on CUDA: the assertions of vllm/lora/ops/triton_ops/lora_shrink_op.py."""

LARGEST_VOCABULARY = 258_048
"""Tokens of an output head that takes LoRA: create_lora_weights in vllm/lora/layers/logits_processor.py."""

MOST_BIASES = 1024
"""Tokens in the `logit_bias` of a request: vllm/v1/worker/gpu/sample/logit_bias.py."""

MAX_LENGTH = 8192
"""Maximum tokens of a request, unless the model has fewer. The cache on a CPU has 1 GB."""

PATTERNS = ("rank_pattern", "alpha_pattern")
"""Settings that vLLM 0.32 reads (PEFTHelper.get_rank_and_scaling) and some older versions ignore silently."""


def served_config(base: str, settings: Mapping[str, Any]) -> Any:
    """Return transformers' configuration of a base, loaded as vLLM's settings say."""
    from transformers import AutoConfig

    trust = bool(settings.get("trust_remote_code"))
    return AutoConfig.from_pretrained(base, revision=settings.get("revision"), trust_remote_code=trust)


def max_length(config: Any) -> int:
    """Return the maximum tokens of a request."""
    return min(int(getattr(config.get_text_config(), "max_position_embeddings", MAX_LENGTH)), MAX_LENGTH)


def max_lora_rank(folders: Sequence[Path]) -> int:
    """Return the smallest `max_lora_rank` of vLLM that all adapters fit in.

    Raises AdapterError for a rank above the largest.
    """
    ranks = {folder: int(adapters.adapter_config(folder)["r"]) for folder in folders}
    for folder, rank in ranks.items():
        if rank > RANKS[-1]:
            raise AdapterError(f"{folder} has rank {rank}, and vLLM serves LoRA up to rank {RANKS[-1]}")
    return next(limit for limit in RANKS if limit >= max(ranks.values()))


def beyond_plain_lora(folder: Path) -> str | None:
    """Return the setting or weight by which an adapter is more than plain LoRA of one rank, None if none is.

    vLLM serves no other adapters (PEFTHelper.validate_legal in vllm/lora/peft_helper.py), and some versions
    ignore the difference silently.
    """
    settings = adapters.adapter_config(folder)
    if settings["peft_type"] != "LORA":
        return f"peft_type {settings['peft_type']}"
    if settings.get("init_lora_weights") not in adapters.PLAIN_STARTS:
        return f"init_lora_weights {settings['init_lora_weights']}"
    if settings.get("bias", "none") != "none":
        return f"bias {settings['bias']}"
    fields = ("use_dora", "lora_bias", "modules_to_save", *PATTERNS, "target_parameters")
    for field in fields:
        if settings.get(field):
            return field
    shapes = adapters.tensor_shapes(folder / adapters.WEIGHTS)
    return next((name for name in shapes if ".lora_" not in name), None)


def check_lora_dtype(dtype: str, device: str) -> None:
    """Raise EngineError for a dtype in which vLLM has no LoRA on the device, "cuda" or "cpu"."""
    if device != "cpu" and dtype not in LORA_DTYPES:
        raise EngineError(
            f"On a GPU, vLLM serves LoRA only in float16 or bfloat16, not in {dtype}. GPUs without bf16, "
            f"such as the T4, would answer in float32"
        )


def check_one_engine(settings: Mapping[str, Any]) -> None:
    """Raise EngineError for several engines, which lm-eval would start anew in every call."""
    engines = int(settings.get("data_parallel_size", 1))
    if engines > 1:
        raise EngineError(
            f"data_parallel_size={engines} is not available: midalign runs one engine per process. Start a "
            f"process per GPU, each with CUDA_VISIBLE_DEVICES and midalign eval --shard I/{engines}, and "
            f"join them with midalign leaderboard merge"
        )


def check_biases(tokens: Sequence[int]) -> None:
    """Raise EngineError for more tokens than vLLM can keep out of constrained outputs.

    Its process would die of the first request (LogitBiasState.add_request).
    """
    if len(tokens) > MOST_BIASES:
        raise EngineError(
            f"Constrained outputs must not have the base's {len(tokens)} special tokens, and vLLM excludes "
            f"at most {MOST_BIASES}"
        )


def check_adapters(folders: Sequence[Path], base_config: Any, dtype: str, device: str) -> None:
    """Raise AdapterError or EngineError for adapters that vLLM does not serve live.

    Args:
        folders: the adapters, which fit the base.
        base_config: transformers' configuration of the base.
        dtype: the dtype of the answers.
        device: "cuda" or "cpu".
    """
    if not folders:
        return
    # 1. Kind and rank of each adapter, and the dtype of all.
    for folder in folders:
        problem = beyond_plain_lora(folder)
        if problem:
            raise AdapterError(
                f"{folder} has {problem}, which vLLM does not serve: it takes plain LoRA of one rank"
            )
    max_lora_rank(folders)
    check_lora_dtype(dtype, device)
    # 2. The modules of the base that take LoRA.
    architecture, embeddings = lora_embeddings(base_config)
    if embeddings is None:
        raise EngineError(f"vLLM has no LoRA for {architecture}")
    for folder in folders:
        check_modules(folder, architecture, embeddings)
    # 3. An output head that takes LoRA is wrapped even if no adapter changes it (_create_lora_modules in
    # vllm/lora/model_manager.py).
    vocabulary = int(base_config.get_text_config().vocab_size)
    if "lm_head" in embeddings and vocabulary > LARGEST_VOCABULARY:
        raise EngineError(
            f"vLLM has LoRA for {architecture} up to {LARGEST_VOCABULARY:,} tokens, and the base has "
            f"{vocabulary:,}"
        )


def check_modules(folder: Path, architecture: str, embeddings: Sequence[str]) -> None:
    """Raise AdapterError for an adapter of an output head, or of embeddings that take no LoRA in vLLM.

    `embeddings` are those that do. All linear layers take LoRA (get_supported_lora_modules in
    vllm/lora/utils.py). On a GPU, log probabilities of prompts lack what an adapter adds to the output head,
    so that it cannot be proved, and may read memory of others (github.com/vllm-project/vllm/issues/51594).
    """
    for name in adapters.tensor_shapes(folder / adapters.WEIGHTS):
        module = name.partition(".lora_")[0].rpartition(".")[2]
        if module == "lm_head":
            raise AdapterError(
                f"{folder} changes lm_head. vLLM's log probabilities of prompts lack that change, so that it "
                f"cannot be proved"
            )
        if ".lora_embedding_" in name and module not in embeddings:
            raise AdapterError(f"{folder} changes {module}, which takes no LoRA in vLLM's {architecture}")


def lora_embeddings(base_config: Any) -> tuple[str, list[str] | None]:
    """Return the architecture of a base, and its embeddings and output head that take LoRA in vLLM.

    None if the architecture takes no LoRA. An architecture that vLLM does not know runs through transformers,
    where linear layers take LoRA.
    """
    from midalign.evaluate.vllm_start import prepare_vllm

    prepare_vllm()
    from vllm import ModelRegistry

    architecture = (base_config.architectures or ["an unnamed architecture"])[0]
    known = ModelRegistry.models.get(architecture)
    if known is None:
        return architecture, []
    model = known.load_model_cls()
    if not getattr(model, "supports_lora", False):
        return architecture, None
    return architecture, list(model.embedding_modules)
