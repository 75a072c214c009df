"""Import hooks on three modules of lm-eval, installed by the start-up file.

Other packages cannot declare tasks in lm-eval 0.4.13. A finder at the front of `sys.meta_path` therefore lets
the other finders find these modules, and runs our hooks before and after their loaders. Without an import of
lm-eval, the only cost is this module: it imports `os` and `sys`, which every interpreter has loaded.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

HOOKED = ("lm_eval.tasks", "lm_eval.models", "lm_eval.evaluator")


def install() -> None:
    """Install the finder, once. MIDALIGN_NO_AUTOLOAD=1 switches it off."""
    if os.environ.get("MIDALIGN_NO_AUTOLOAD") == "1" or any(
        isinstance(finder, LmEvalFinder) for finder in sys.meta_path
    ):
        return
    sys.meta_path.insert(0, LmEvalFinder())


class LmEvalFinder:
    """Finder that returns the spec of another finder, with hooks around the loader of the three modules."""

    def __init__(self) -> None:
        self.asking: set[str] = set()

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec that another finder has for a hooked module, or None for every other module."""
        if name not in HOOKED or name in self.asking:  # called by another finder that asks all finders
            return None
        self.asking.add(name)
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec: ModuleSpec | None = find(name, path, target) if find else None
                if spec is not None:
                    _hook(spec)
                    return spec
            return None
        finally:
            self.asking.remove(name)


def _hook(spec: "ModuleSpec") -> None:
    """Run our hooks around the loader's `exec_module`. The loader itself stays the same object."""
    loader = spec.loader
    if loader is None:
        return
    load = loader.exec_module

    def exec_module(module: "ModuleType") -> None:
        _run(f"before {spec.name}")
        load(module)
        _run(f"after {spec.name}")

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _run(moment: str) -> None:
    """Run a hook. Its errors must not end another program's run."""
    try:
        from midalign_lm_eval import hooks

        hooks.AT.get(moment, lambda: None)()
    except Exception as error:
        from midalign_lm_eval.problems import warn

        warn(moment, error)
