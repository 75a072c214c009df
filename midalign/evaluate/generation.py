"""Generation settings that a base brings along, which the engines do not follow."""

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
"""Keys of a generation config that change no greedy answer: tokens that all engines know, how to sample, what
a call says itself, and what it returns."""

TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def acting_settings(config: Any) -> dict[str, Any]:
    """Return the keys of a transformers GenerationConfig that change greedy answers, with their values."""
    found: dict[str, Any] = config.to_diff_dict()
    return {
        key: value
        for key, value in sorted(found.items())
        if key not in WITHOUT_EFFECT and not key.startswith("_") and value is not None
    }


def neutralize(model: Any) -> dict[str, Any]:
    """Leave a model its tokens alone of its generation config; returns what would have acted."""
    from transformers import GenerationConfig

    config = model.generation_config
    kept = GenerationConfig(**{key: getattr(config, key, None) for key in TOKENS})
    for part in (model, model.get_base_model() if hasattr(model, "get_base_model") else model):
        part.generation_config = kept
    return report_ignored(acting_settings(config))


def report_ignored(ignored: dict[str, Any]) -> dict[str, Any]:
    """Say what of a generation config is ignored; returns it."""
    if ignored:
        log.warning(
            "The base's generation_config sets %s, which midalign ignores: answers are plainly greedy, and "
            "the record names these keys",
            ", ".join(f"{key}={value}" for key, value in ignored.items()),
        )
    return ignored


def base_generation_config(base: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Return a base's GenerationConfig as transformers derives it, by folder or hub id."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(base, revision=revision or "main")
    except OSError:  # the base has no generation_config.json
        config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config)
