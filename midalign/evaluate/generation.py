"""Generation settings of a base, which the engines ignore."""

import logging
from typing import Any

log = logging.getLogger(__name__)

WITHOUT_EFFECT = {
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "decoder_start_token_id",
    "do_sample",
    "epsilon_cutoff",
    "eta_cutoff",
    "eos_token_id",
    "max_length",
    "min_p",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "return_dict_in_generate",
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "transformers_version",
    "typical_p",
    "use_cache",
}
"""Keys of a generation config that change no greedy answer: tokens, sampling, what each call sets itself, and
what it returns."""

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def acting_settings(config: Any) -> dict[str, Any]:
    """Return the keys of a transformers GenerationConfig that change greedy answers, with their values."""
    settings: dict[str, Any] = config.to_diff_dict()
    return {
        key: value
        for key, value in sorted(settings.items())
        if key not in WITHOUT_EFFECT and not key.startswith("_") and value is not None
    }


def neutralize(model: Any) -> dict[str, Any]:
    """Keep only the tokens of a model's generation config, and return the settings that would have acted."""
    from transformers import GenerationConfig

    config = model.generation_config
    kept = GenerationConfig(**{key: getattr(config, key, None) for key in TOKENS})
    for part in (model, model.get_base_model() if hasattr(model, "get_base_model") else model):
        part.generation_config = kept
    return report_ignored(acting_settings(config))


def report_ignored(ignored: dict[str, Any]) -> dict[str, Any]:
    """Warn of ignored settings, and return them."""
    if ignored:
        log.warning(
            "The base's generation_config sets %s, which midalign ignores: decoding is plain greedy. The "
            "record names these keys",
            ", ".join(f"{key}={value}" for key, value in ignored.items()),
        )
    return ignored


def base_generation_config(base: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Return the GenerationConfig of a base as transformers derives it, by folder or hub id."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base, revision=revision or "main")
    except OSError:  # the base has no generation_config.json
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config)


def end_ids(config: Any, tokenizer: Any) -> set[int]:
    """Return the end-of-sequence ids of a GenerationConfig and of the tokenizer."""
    of_config = config.eos_token_id
    several = of_config if isinstance(of_config, list) else [of_config]
    return {i for i in (*several, tokenizer.eos_token_id) if i is not None}
