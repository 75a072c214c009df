"""What the start-up file calls: hooks onto three modules of lm-eval, should anybody ever import them.

lm-eval 0.4.13 lets nobody outside declare tasks. So a finder at the front of `sys.meta_path` lets the other
finders answer for `lm_eval.tasks` and `lm_eval.models` and runs our part around the real loader's. A Python
that never imports lm-eval pays for this module only: nothing but `os` and `sys` is imported here, and they
are loaded in every interpreter.
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
    """Put the finder in place, once; MIDALIGN_NO_AUTOLOAD=1 switches it off."""
    if os.environ.get("MIDALIGN_NO_AUTOLOAD") == "1" or any(isinstance(f, Finder) for f in sys.meta_path):
        return
    sys.meta_path.insert(0, Finder())


class Finder:
    """Finds what the other finders find, with a hook in the loader of the three modules."""

    def __init__(self) -> None:
        self.asking: set[str] = set()

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return the spec that another finder has for a hooked module, or None for every other module."""
        if name not in HOOKED or name in self.asking:  # asked by a finder that asks the others, as we do
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
    """Run our part around the loader's `exec_module`; the loader stays what it is for everyone who asks."""
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
    """Run the plug-in's part. Its errors must not end another program's run."""
    try:
        from midalign_lm_eval import hooks

        hooks.AT.get(moment, lambda: None)()
    except Exception as error:
        from midalign_lm_eval.problems import warn

        warn(moment, error)
