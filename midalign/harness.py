"""lm-eval's view of our tasks: names and metadata from the YAML files, objects and prompts from lm-eval."""

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from midalign.data import own
from midalign.errors import RecipeError, TaskError, nearest, unknown_name
from midalign.families import family, structured
from midalign.languages import counterpart
from midalign.tasks import tasks_dir


@cache
def _files() -> dict[str, dict[str, Any]]:
    """Return the YAML of every group and task by name. Shared parts are in files without the suffix."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 900 files: 1.8 s without the one in C
    files = sorted(tasks_dir().rglob("*.yaml"))
    return {path.stem: yaml.load(path.read_text("utf-8"), loader) for path in files}


def _file(name: str) -> dict[str, Any]:
    if own.is_own(name):
        return _own(name)
    try:
        return _files()[name]
    except KeyError:
        groups = ", ".join(sorted(n for n, content in _files().items() if "group" in content))
        raise TaskError(f"No task {name!r}.{nearest(name, _files())} Groups: {groups}") from None


OWN_TEMPLATES = {
    "slot": "slot/slot/_midalign_slot",
    "translation": "translation/mini_mt/_midalign_mini_mt",
    "structured": "structured/json_uner/_midalign_json_uner",
}
"""What tasks of a user's own data share with those of a data set, by family."""


def _own(name: str) -> dict[str, Any]:
    """Return what a file would contain for a group or task of a user's own data."""
    group, language = own.split_name(name)
    source = own.OwnData(group)
    if not language:
        return {"group": group, "task": [f"{group}_{one}" for one in source.languages]}
    splits = source.splits(language)
    if not splits:
        raise TaskError(unknown_name(group, "language", language, source.languages))
    return {
        "task": name,
        "training_split": "train" if "train" in splits else None,
        "validation_split": "validation" if "validation" in splits else None,
        "test_split": splits[-1],  # lm-eval wants one; what is evaluated is another's choice
        "fewshot_split": splits[-1],
        "generation_kwargs": {
            "until": ["\n"],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": min(max(-(-(source.longest(language) + 1) // 64) * 64, 128), 1024),
        },
        "metadata": {"version": 2, "family": source.family, "source": group, "language": language},
    }


def _own_task(name: str) -> dict[str, Any]:
    """Return the configuration of a task of a user's own data, for lm-eval."""
    from lm_eval.tasks._yaml_loader import load_yaml

    content = _own(name)
    metadata = content["metadata"]
    shared = load_yaml(tasks_dir() / OWN_TEMPLATES[metadata["family"]])
    has = family(metadata["family"]).metrics(metadata)
    metrics = [one for one in shared["metric_list"] if one["metric"].removesuffix("_stderr") in has]
    if metadata["family"] == "structured":
        shared["description"] = structured.instruction(metadata["source"])
    return {**shared, **content, "metric_list": metrics}


def group_name(name: str) -> str:
    """Return the name itself, or for `family:PATH` the group of the user's own data."""
    return own.add_file(name) if own.is_spec(name) else name


STOCK = "lm_eval:"
"""Begins the name of a task that is not ours: one of lm-eval's, or a YAML file for it."""


def is_stock(name: str) -> bool:
    """Return whether a task is one of lm-eval's own."""
    return name.startswith(STOCK)


def stock_task(name: str, language: str) -> str:
    """Return the task of a language, in braces, of a name such as `lm_eval:mgsm_direct_{language}`."""
    return name.replace("{language}", f"{{{language}}}")


def expand(names: Sequence[str], split: str | None = None) -> list[str]:
    """Return task names with groups replaced by their tasks, each once.

    For a split, a group of a user's own data is the languages that have it, if any has. Raises TaskError with
    the nearest names.
    """
    found: dict[str, None] = {}
    for name in map(group_name, names):
        if is_stock(name):
            found[name] = None
            continue
        content = _file(name)
        if "group" not in content:
            found[name] = None
            continue
        leaves = expand(content["task"])
        found.update(dict.fromkeys([leaf for leaf in leaves if _has_split(leaf, split)] or leaves))
    return list(found)


def _has_split(name: str, split: str | None) -> bool:
    """Return whether a task has a split. Those of the data sets always do."""
    if split is None or not own.is_own(name):
        return True
    group, language = own.split_name(name)
    return split in own.OwnData(group).splits(language)


def metadata(name: str) -> dict[str, Any]:
    """Return a task's metadata: version, family, source, language."""
    content: dict[str, Any] = _file(name)["metadata"]
    return content


def has_training_split(name: str) -> bool:
    """Return whether a task can be trained on. A task file says so if it cannot."""
    if is_stock(name):
        return bool(load([name])[name].has_training_docs())
    return _file(name).get("training_split", "train") is not None


def task_languages(name: str) -> list[str]:
    """Return the languages that decide a task's role: its own, or a direction's sides except English."""
    if is_stock(name):
        return re.findall(r"\{(.+)\}", name) or ["en"]
    *others, last = str(metadata(name)["language"]).split("-")
    return [code for code in (*others, last) if code != "en"] if others else [last]


def task_code(group: str, language: str) -> str:
    """Return a group's code of a language, which may be `zh` for `zh_cn`; the same code if it has none."""
    names = expand([stock_task(group, language)])
    codes = {code for name in names for code in task_languages(name)}
    return counterpart(language, codes) or language


def task_names(group: str, languages: Sequence[str]) -> list[str]:
    """Return the group's tasks in some languages, in their order.

    For translation, these are the directions among the languages and English. Raises TaskError for a language
    that the group lacks.
    """
    if is_stock(group):
        if len(languages) > 1 and "{language}" not in group:
            raise TaskError(
                f"{group} is one task, and the recipe has {len(languages)} languages of it: "
                f"name it with {{language}}, such as lm_eval:mgsm_direct_{{language}}"
            )
        return [stock_task(group, language) for language in languages]
    languages_of = {name: task_languages(name) for name in expand([group])}
    known = {code for codes in languages_of.values() for code in codes}
    names: dict[str, None] = {}
    for language in languages:
        if language not in known:
            raise TaskError(unknown_name(group, "language", language, sorted(known)))
        own = (name for name, codes in languages_of.items() if language in codes)
        names.update(dict.fromkeys(name for name in own if set(languages_of[name]) <= set(languages)))
    return list(names)


def training_tasks(group: str, languages: Sequence[str]) -> list[str]:
    """Return the tasks of `task_names` that have a training split.

    Raises RecipeError for a language without any.
    """
    names = task_names(group, languages)
    candidates = names if is_stock(group) else expand([group])
    trainable = [name for name in candidates if has_training_split(name)]
    known = dict.fromkeys(code for name in trainable for code in task_languages(name))
    for language in languages:
        if language not in known:
            raise RecipeError(f"{group} has no training data in {language!r}, only in {', '.join(known)}")
    return [name for name in names if name in trainable]


def family_languages(family: str) -> set[str]:
    """Return all languages in the tasks of a folder of task files: slot, translation, ..."""
    folders = {path.name: path for path in tasks_dir().iterdir() if path.is_dir()}
    if family not in folders:
        raise TaskError(
            f"No family {family!r}.{nearest(family, folders)} Expected {', '.join(sorted(folders))}"
        )
    names = [path.stem for path in folders[family].rglob("*.yaml") if "group" not in _file(path.stem)]
    return {code for name in names for code in str(metadata(name)["language"]).split("-")}


def load(names: Sequence[str]) -> dict[str, Any]:
    """Return lm-eval's task objects by name, without the 14,000 files of its own index."""
    leaves = expand(names)
    manager = _manager()
    logger = logging.getLogger("lm_eval.api.task")
    logger.addFilter(_worth_reading)
    try:
        ours = [name for name in leaves if not is_stock(name)]
        specs = [_own_task(name) if own.is_own(name) else name for name in ours]
        tasks: dict[str, Any] = manager.load(specs)["tasks"] if specs else {}
        tasks |= {name: _stock(name) for name in leaves if is_stock(name)}
    finally:
        logger.removeFilter(_worth_reading)
    return {name: tasks[name] for name in leaves}


@cache
def _manager() -> Any:
    """Return lm-eval's index of our task files, which takes two seconds to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tasks_dir()), include_defaults=False)


@cache
def _stock(name: str) -> Any:
    """Load a task of lm-eval's own, or of a YAML file, for which no index is needed."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    wanted = re.sub(r"[{}]", "", name.removeprefix(STOCK))
    a_file = wanted.endswith(".yaml")
    try:
        spec = load_yaml(Path(wanted)) if a_file else wanted
        (task,) = TaskManager(include_defaults=not a_file).load([spec])["tasks"].values()
    except (KeyError, ValueError, OSError) as error:
        raise TaskError(f"{name}: lm-eval has no one task {wanted!r} here ({error})") from None
    return task


def _worth_reading(entry: logging.LogRecord) -> bool:
    """Return False for lm-eval's hint, two lines per task, that a custom data set may take options."""
    return "Custom kwargs can be passed" not in entry.getMessage()


def prompt(
    task: Any,
    doc: dict[str, Any],
    *,
    apply_chat_template: Callable[..., str] | None = None,
    system_instruction: str | None = None,
    num_fewshot: int = 0,
) -> str:
    """Return the text that lm-eval passes to an engine's `generate_until` for a document."""
    text: str = task.fewshot_context(
        doc,
        num_fewshot,
        system_instruction=system_instruction,
        apply_chat_template=apply_chat_template is not None,
        fewshot_as_multiturn=apply_chat_template is not None,
        chat_template=apply_chat_template,
    )
    return text
