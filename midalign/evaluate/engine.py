"""The choice of an engine, and its start after the proof that each adapter acts."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from midalign import adapter as adapters
from midalign.errors import AdapterError, EngineError
from midalign.evaluate import constrain, install, live, retrieval, vllm_limits
from midalign.evaluate.requests import Generated
from midalign.evaluate.settings import BATCH_INVARIANT, EvalSettings, EvaluatedModel
from midalign.evaluate.vllm_proof import ProbeReference, prove_vllm_serves, take_reference

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

    def use(self, adapter: str | None, also: Sequence[str] = ()) -> None:
        """Answer with the adapter of that name, or as the base.

        `also` names further adapters that may answer in the same batch: they get the same requests next.
        """


def check_engine(settings: EvalSettings) -> None:
    """Raise EngineError if the engine asked for is missing, or cannot do what the settings ask."""
    if settings.engine == "vllm":
        install.require_vllm()


def choose_engine(settings: EvalSettings, base: str, models: Sequence[EvaluatedModel]) -> str:
    """Return the name of the engine that answers as all models: the one asked for, or the choice for "auto".

    "auto" is vLLM on CUDA if it is installed and serves all adapters, else Hugging Face, which on a CPU
    answers before vLLM has started. Raises AdapterError or EngineError if the engine that was asked for does
    not serve an adapter, or not as the settings say.
    """
    os.environ[BATCH_INVARIANT] = str(int(settings.batch_invariant))  # read when vLLM is imported
    engine = _serving_engine(settings, base, models)
    _check_vllm_options(settings, engine)
    return engine


def _serving_engine(settings: EvalSettings, base: str, models: Sequence[EvaluatedModel]) -> str:
    """Return the engine that serves all models. Raises AdapterError or EngineError."""
    from midalign.device import device, fast_dtype

    wanted = settings.engine
    if wanted not in ("auto", "vllm"):
        return wanted
    if wanted == "auto" and not (device() == "cuda" and install.has_vllm()):
        return "hf"
    if device() == "cpu":  # there vLLM gets merged copies, proved equal
        return "vllm"
    folders = [model.folder for model in models if model.folder is not None]
    try:
        if folders:
            vllm_limits.check_adapters(folders, adapters.base_config(base), fast_dtype(), device())
        if settings.constrained:
            vllm_limits.check_biases(constrain.base_markup(base))
    except (AdapterError, EngineError) as error:
        if wanted == "vllm":
            raise type(error)(f"{error}. Use the other engine: --engine hf") from error
        log.warning("The engine is hf: %s", error)
        return "hf"
    return "vllm"


def _check_vllm_options(settings: EvalSettings, engine: str) -> None:
    """Raise EngineError for options that the engine would ignore, and for more GPUs than there are."""
    import torch

    gpus, found = settings.tensor_parallel, torch.cuda.device_count()
    options = {
        f"--tensor-parallel {gpus}": gpus > 1,
        f"--max-loras {settings.max_loras}": settings.max_loras > 1,
        "--batch-invariant": settings.batch_invariant,
    }
    given = [option for option, is_given in options.items() if is_given]
    if given and (engine != "vllm" or not found):
        variable = f" (or unset {BATCH_INVARIANT})" if settings.batch_invariant else ""
        here = engine if found else f"{engine} without a GPU"
        raise EngineError(
            f"{' and '.join(given)} is for vLLM on GPUs, and the engine is {here}. Remove it{variable}, or "
            f"use --engine vllm on a machine with GPUs"
        )
    if gpus > found and gpus > 1:
        raise EngineError(f"--tensor-parallel {gpus} needs {gpus} GPUs, and torch finds {found}")


@contextmanager
def open_engine(plan: "EvalPlan", models: Sequence[EvaluatedModel]) -> Iterator[InferenceEngine]:
    """Yield an engine that answers as each of `models`, after the proof that each adapter acts.

    Pair retrieval is measured before, while the base and its adapters are in memory.
    """
    from midalign.device import device, free_memory

    # 1. Load the base with its adapters.
    settings, folders = plan.settings, _adapter_folders(models)
    base_model, tokenizer = _load(plan, folders)
    # 2. Prove that each adapter acts, or take what vLLM must reproduce.
    reference = None
    if plan.engine != "vllm" or device() == "cpu":
        live.prove_each_acts(base_model, tokenizer, folders)
    if plan.engine == "vllm" and folders:
        reference = take_reference(base_model, tokenizer, folders)
    # 3. Measure retrieval in the dtype of the answers.
    _measure_retrieval(plan, models, base_model, tokenizer)
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
        with _open_vllm(plan, folders, reference, answering) as engine:
            yield engine


def measure_retrieval_alone(plan: "EvalPlan", models: Sequence[EvaluatedModel]) -> None:
    """Measure pair retrieval of models whose answers are finished, without starting an engine.

    Raises AdapterError for an adapter that does not act.
    """
    folders = _adapter_folders(models)
    base_model, tokenizer = _load(plan, folders)
    live.prove_each_acts(base_model, tokenizer, folders)
    _measure_retrieval(plan, models, base_model, tokenizer)


def _adapter_folders(models: Sequence[EvaluatedModel]) -> dict[str, Path]:
    return {model.name: model.folder for model in models if model.folder is not None}


def _load(plan: "EvalPlan", folders: Mapping[str, Path]) -> tuple[Any, Any]:
    """Return the base with its adapters, and its tokenizer.

    On a CPU, adapters are proved in fp32. A base in fp32 may not fit on a GPU, where they are proved in the
    dtype of the answers.
    """
    from midalign.device import device, fast_dtype

    in_fp32 = bool(folders) and device() == "cpu"
    return live.load_with_adapters(plan.base, folders, "float32" if in_fp32 else fast_dtype())


def _measure_retrieval(
    plan: "EvalPlan", models: Sequence[EvaluatedModel], base_model: Any, tokenizer: Any
) -> None:
    from midalign.device import fast_dtype

    live.cast(base_model, fast_dtype())
    retrieval.measure_missing(plan, models, base_model, tokenizer)


@contextmanager
def _open_vllm(
    plan: "EvalPlan",
    folders: Mapping[str, Path],
    reference: ProbeReference | None,
    answering: Mapping[str, Any],
) -> Iterator[InferenceEngine]:
    """Yield vLLM with live adapters, on a CPU with merged copies, after the proof that each acts."""
    from midalign.device import device, fast_dtype
    from midalign.evaluate.merged_copies import merged_copies
    from midalign.evaluate.vllm import MidalignVLLM

    with tempfile.TemporaryDirectory(prefix="midalign-merged-") as folder:
        serving: dict[str, Any] = {
            "adapters": folders,
            "tensor_parallel_size": plan.settings.tensor_parallel,
            "max_loras": plan.settings.max_loras,
        }
        if device() == "cpu":
            logits = reference.logits if reference else {}
            serving = {"merged": merged_copies(plan.base, folders, logits, Path(folder))}
        engine = MidalignVLLM(plan.base, dtype=fast_dtype(), **serving, **answering)
        if reference is not None:
            prove_vllm_serves(engine, reference, folders)
        yield engine


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
