"""The choice of an engine, and its start after the proof that each adapter acts."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from midalign import adapter as adapters
from midalign.errors import EngineError
from midalign.evaluate import install, live, retrieval
from midalign.evaluate.partial import PartStore
from midalign.evaluate.settings import EngineName, EvalSettings, EvaluatedModel

log = logging.getLogger(__name__)

BATCH = 64


def _engine_name(wanted: EngineName) -> str:
    """VLLM on CUDA where it is installed, else Hugging Face: on a CPU it answers before vLLM starts."""
    from midalign.device import device

    if wanted == "auto":
        return "vllm" if device() == "cuda" and install.has_vllm() else "hf"
    if wanted == "vllm":
        install.require_vllm()
    return wanted


def _engine_for(settings: EvalSettings, engine: str, models: Sequence[EvaluatedModel]) -> str:
    """Return the engine, or Hugging Face in place of an unasked vLLM that would not serve all adapters live.

    Raises EngineError where vLLM was asked for.
    """
    from midalign.device import device

    if engine != "vllm" or device() == "cpu":  # there vLLM gets merged copies, proved equal
        return engine
    for model in models:
        problem = model.folder and adapters.beyond_plain_lora(model.folder)
        if problem and settings.engine == "auto":
            log.warning("%s has %s, which vLLM does not serve: the engine is hf", model.folder, problem)
            return "hf"
        if problem:
            raise EngineError(
                f"{model.folder} has {problem}, which vLLM does not serve: it takes plain LoRA of one rank. "
                f"Use the other engine: --engine hf"
            )
    return engine


@contextmanager
def _engine(
    engine: str,
    base: str,
    models: Sequence[EvaluatedModel],
    stores: Mapping[str, PartStore],
    names: Sequence[str],
    settings: EvalSettings,
) -> Iterator[Any]:
    """Yield an engine that answers as each of `models`, after the proof that each adapter acts.

    Pair retrieval is measured before, while the base and its adapters are in memory.
    """
    from midalign.device import fast_dtype

    folders = {model.name: model.folder for model in models if model.folder is not None}
    # fp32 for the proof; without adapters there is nothing to prove.
    model, tokenizer = live.load(base, folders, "float32" if folders else fast_dtype())
    live.prove_each_acts(model, tokenizer, folders)
    logits = {}
    if engine == "vllm" and model.device.type == "cpu":
        for name, adapter in folders.items():
            live.switch(model, name)
            logits[name] = live.probe_logits(model, tokenizer, adapter)
    live.cast(model, fast_dtype())
    retrieval._measure_retrieval(model, tokenizer, models, stores, names, settings)
    answering: dict[str, Any] = {
        "constrained": settings.constrained,
        "think_end_token": settings.think_end_token,
        "max_thinking_tokens": settings.max_thinking_tokens,
        "enable_thinking": settings.enable_thinking,
    }
    if engine == "hf":
        from midalign.evaluate.hf import MidalignHF

        yield MidalignHF(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, **answering)
        return
    on_cpu = model.device.type == "cpu"
    del model
    _free_memory()
    with tempfile.TemporaryDirectory(prefix="midalign-merged-") as folder:
        from midalign.evaluate.merged_copies import merged_copies
        from midalign.evaluate.vllm import MidalignVLLM

        if on_cpu:
            copies = merged_copies(base, folders, logits, Path(folder))
            yield MidalignVLLM(base, merged=copies, dtype=fast_dtype(), **answering)
        else:
            yield MidalignVLLM(
                base,
                adapters=folders,
                dtype=fast_dtype(),
                tensor_parallel_size=settings.tensor_parallel,
                **answering,
            )


def _free_memory() -> None:
    """Give the device what a finished engine has left, for another process."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's warnings about task metadata and in-memory models.

    Every task of midalign triggers them.
    """
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
