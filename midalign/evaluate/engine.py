"""The choice of an engine, and its start after the proof that each adapter acts."""

import gc
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from midalign import adapter as adapters
from midalign.errors import EngineError
from midalign.evaluate import install, live, retrieval
from midalign.evaluate.requests import Generated
from midalign.evaluate.settings import EngineName, EvalSettings, EvaluatedModel

if TYPE_CHECKING:
    from midalign.evaluate.plan import EvalPlan

log = logging.getLogger(__name__)

BATCH = 64
"""Rows of a batch of the Hugging Face engine."""

NOISY_LOGGERS = ("lm_eval", "transformers")


class InferenceEngine(Protocol):
    """An lm-eval model that answers as the base or one of its adapters."""

    items_at_once: int
    """Items that one call should bring, of several tasks if these are small."""
    on_output: Callable[[int], None] | None
    """Called with the number of answers that have just been finished. None shows a bar of tqdm."""
    generated: dict[tuple[str, int], Generated]
    """The answers of the last call, by task name and position."""

    def use(self, adapter: str | None) -> None:
        """Answer with the adapter of that name, or as the base."""


def check_engine(settings: EvalSettings) -> None:
    """Raise EngineError if the engine asked for is missing, or cannot do what the settings ask."""
    if settings.engine == "vllm":
        install.require_vllm()


def choose_engine(wanted: EngineName, models: Sequence[EvaluatedModel]) -> str:
    """Return the name of the engine that answers as all models: `wanted`, or the choice for "auto".

    "auto" is vLLM on CUDA if it is installed and serves all adapters, else Hugging Face, which on a CPU
    answers before vLLM has started. Raises EngineError if vLLM was asked for and does not serve an adapter.
    """
    from midalign.device import device

    if wanted not in ("auto", "vllm"):
        return wanted
    if wanted == "auto" and not (device() == "cuda" and install.has_vllm()):
        return "hf"
    if device() == "cpu":  # there vLLM gets merged copies, proved equal
        return "vllm"
    for model in models:
        problem = model.folder and adapters.beyond_plain_lora(model.folder)
        if problem and wanted == "auto":
            log.warning("%s has %s, which vLLM does not serve: the engine is hf", model.folder, problem)
            return "hf"
        if problem:
            raise EngineError(
                f"{model.folder} has {problem}, which vLLM does not serve: it takes plain LoRA of one rank. "
                f"Use the other engine: --engine hf"
            )
    return "vllm"


@contextmanager
def open_engine(plan: "EvalPlan", models: Sequence[EvaluatedModel]) -> Iterator[InferenceEngine]:
    """Yield an engine that answers as each of `models`, after the proof that each adapter acts.

    Pair retrieval is measured before, while the base and its adapters are in memory.
    """
    from midalign.device import fast_dtype

    # 1. Load the base with its adapters, in fp32 for the proof. Without adapters there is nothing to prove.
    settings, dtype = plan.settings, fast_dtype()
    folders = {model.name: model.folder for model in models if model.folder is not None}
    base_model, tokenizer = live.load_with_adapters(plan.base, folders, "float32" if folders else dtype)
    live.prove_each_acts(base_model, tokenizer, folders)
    on_cpu = base_model.device.type == "cpu"
    # 2. Take the logits that merged copies must reproduce.
    logits = {}
    if plan.engine == "vllm" and on_cpu:
        for name, adapter in folders.items():
            live.switch(base_model, name)
            logits[name] = live.probe_logits(base_model, tokenizer, adapter)
    # 3. Measure retrieval in the dtype of the answers.
    live.cast(base_model, dtype)
    retrieval.measure_missing(plan, models, base_model, tokenizer)
    # 4. Start the engine.
    answering: dict[str, Any] = {
        "constrained": settings.constrained,
        "think_end_token": settings.think_end_token,
        "max_thinking_tokens": settings.max_thinking_tokens,
        "enable_thinking": settings.enable_thinking,
    }
    if plan.engine == "hf":
        from midalign.evaluate.hf import MidalignHF

        yield MidalignHF(pretrained=base_model, tokenizer=tokenizer, batch_size=BATCH, **answering)
        return
    # The other engines load the base themselves, so ours leaves the memory first.
    del base_model
    free_memory()
    if plan.engine == "vllm":
        with _open_vllm(plan, folders, logits, answering) as engine:
            yield engine


@contextmanager
def _open_vllm(
    plan: "EvalPlan", folders: Mapping[str, Path], logits: Mapping[str, Any], answering: Mapping[str, Any]
) -> Iterator[InferenceEngine]:
    """Yield vLLM with live adapters, or on a CPU with merged copies that reproduce `logits`."""
    from midalign.device import device, fast_dtype
    from midalign.evaluate.merged_copies import merged_copies
    from midalign.evaluate.vllm import MidalignVLLM

    dtype = fast_dtype()
    if device() != "cpu":
        tensor_parallel = plan.settings.tensor_parallel
        yield MidalignVLLM(
            plan.base, adapters=folders, dtype=dtype, tensor_parallel_size=tensor_parallel, **answering
        )
        return
    with tempfile.TemporaryDirectory(prefix="midalign-merged-") as folder:
        copies = merged_copies(plan.base, folders, logits, Path(folder))
        yield MidalignVLLM(plan.base, merged=copies, dtype=dtype, **answering)


def free_memory() -> None:
    """Give the device the memory that a finished model has left, for another process."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence lm-eval's warnings about task metadata and in-memory models, and those of transformers.

    Every task of midalign triggers them.
    """
    loggers = [logging.getLogger(name) for name in NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
