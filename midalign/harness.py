"""Tasks: names and metadata from the YAML files, task objects and prompts from lm-eval."""

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
from midalign.rounding import round_up
from midalign.tasks import tasks_dir

STOCK = "lm_eval:"
"""Prefix of the names of lm-eval's own tasks, and of YAML files for lm-eval."""


@cache
def _paths() -> dict[str, Path]:
    """Return the YAML file of every group and task by name. Templates are in files without the suffix."""
    return {path.stem: path for path in sorted(tasks_dir().rglob("*.yaml"))}


@cache
def _files() -> dict[str, dict[str, Any]]:
    """Return the YAML of every group and task by name."""
    # The loader in C saves 1.8 s for 900 files.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {name: yaml.load(path.read_text("utf-8"), loader) for name, path in _paths().items()}


def _file(name: str) -> dict[str, Any]:
    """Return the YAML of a group or task. Raises TaskError with the nearest names."""
    if own.is_own(name):
        return _own(name)
    try:
        return _files()[name]
    except KeyError:
        groups = ", ".join(sorted(name for name, content in _files().items() if "group" in content))
        raise TaskError(f"No task {name!r}.{nearest(name, _files())} Groups: {groups}") from None


OWN_TEMPLATES = {
    "slot": "slot/slot/_midalign_slot",
    "translation": "translation/mini_mt/_midalign_mini_mt",
    "structured": "structured/json_uner/_midalign_json_uner",
}
"""Templates of tasks of a user's own data, by family."""


def _own(name: str) -> dict[str, Any]:
    """Return what a file would contain for a group or task of a user's own data."""
    group, language = own.split_name(name)
    source = own.OwnData(group)
    if not language:
        return {"group": group, "task": [f"{group}_{code}" for code in source.languages]}
    splits = source.splits(language)
    if not splits:
        raise TaskError(unknown_name(group, "language", language, source.languages))
    return {
        "task": name,
        "training_split": "train" if "train" in splits else None,
        "validation_split": "validation" if "validation" in splits else None,
        "test_split": splits[-1],  # lm-eval needs one. An evaluation sets its own.
        "fewshot_split": splits[-1],
        "generation_kwargs": {
            "until": ["\n"],
            "do_sample": False,
            "temperature": 0.0,
            "max_gen_toks": min(max(round_up(source.longest(language) + 1, 64), 128), 1024),
        },
        "metadata": {"version": 2, "family": source.family, "source": group, "language": language},
    }


def _own_task(name: str) -> dict[str, Any]:
    """Return lm-eval's configuration of a task of a user's own data."""
    from lm_eval.tasks._yaml_loader import load_yaml

    content = _own(name)
    metadata = content["metadata"]
    shared = load_yaml(tasks_dir() / OWN_TEMPLATES[metadata["family"]])
    names = family(metadata["family"]).metrics(metadata)
    metrics = [
        metric for metric in shared["metric_list"] if metric["metric"].removesuffix("_stderr") in names
    ]
    if metadata["family"] == "structured":
        shared["description"] = structured.instruction(metadata["source"])
    return {**shared, **content, "metric_list": metrics}


def group_name(name: str) -> str:
    """Return the name itself, or for `family:PATH` the group of the user's own data."""
    return own.add_file(name) if own.is_spec(name) else name


def is_stock(name: str) -> bool:
    """Return whether a task is lm-eval's own, or a YAML file for it."""
    return name.startswith(STOCK)


def stock_task(name: str, language: str) -> str:
    """Return the task of a language, for a name such as `lm_eval:mgsm_direct_{language}`.

    The code of the language stays in braces, which mark it as the task's language.
    """
    return name.replace("{language}", f"{{{language}}}")


def expand(names: Sequence[str], split: str | None = None) -> list[str]:
    """Return task names with groups replaced by their tasks, each once.

    With a split, a group of a user's own data is replaced by the languages that have the split, or by all of
    them if none has. Raises TaskError with the nearest names.
    """
    tasks: dict[str, None] = {}
    for name in map(group_name, names):
        if is_stock(name):
            tasks[name] = None
            continue
        content = _file(name)
        if "group" not in content:
            tasks[name] = None
            continue
        leaves = expand(content["task"])
        tasks.update(dict.fromkeys([leaf for leaf in leaves if _has_split(leaf, split)] or leaves))
    return list(tasks)


def _has_split(name: str, split: str | None) -> bool:
    """Return whether a task has a split. All tasks of the shipped data sets do."""
    if split is None or not own.is_own(name):
        return True
    group, language = own.split_name(name)
    return split in own.OwnData(group).splits(language)


def metadata(name: str) -> dict[str, Any]:
    """Return a task's metadata: version, family, source, language."""
    content: dict[str, Any] = _file(name)["metadata"]
    return content


def prompt_template(name: str) -> str:
    """Return a task's prompt without few-shot examples, as a Jinja template over its documents' fields.

    Reads YAML files alone: neither lm-eval nor data is loaded.
    """
    content = _file(name)
    details = content["metadata"]
    if own.is_own(name):
        shared = _template(Path(OWN_TEMPLATES[details["family"]]).name)
    else:
        shared = _template(content["include"])
    if own.is_own(name) and details["family"] == "structured":
        shared = {**shared, "description": structured.instruction(details["source"])}
    merged = {**shared, **content}
    return f"{merged.get('description', '')}{merged['doc_to_text']}"


@cache
def _template(name: str) -> dict[str, Any]:
    """Return the YAML of a template, without the functions that it names."""
    (path,) = tasks_dir().rglob(name)
    content: dict[str, Any] = yaml.load(path.read_text("utf-8"), _TemplateLoader)
    return content


class _TemplateLoader(yaml.SafeLoader):
    """Reads the names of functions as text."""


_TemplateLoader.add_constructor("!function", lambda loader, node: node.value)


def input_field(name: str) -> str:
    """Return the field of a task's documents that holds the text to work on.

    Raises RecipeError for a task that has none in a language of its own: translation, and lm-eval's tasks.
    """
    if not is_stock(name):
        details = metadata(name)
        field = family(details["family"]).input_field(details)
        if field is not None:
            return field
    raise RecipeError(
        f"{name} has no utterance or text that a sentence could replace: "
        f"align.context=prompt is for slot filling and JSON. Set align.context=sentence"
    )


def word_switch(name: str) -> Callable[..., dict[str, Any]]:
    """Return `switch_words` of a task's family. Raises RecipeError for families without it."""
    if is_stock(name) or metadata(name)["family"] != "slot":
        raise RecipeError(
            f"{name} has no slots whose values could be translated: align.switched_samples is for slot "
            "filling. Set it to 0"
        )
    from midalign.families.slot import switch_words

    return switch_words


def has_training_split(name: str) -> bool:
    """Return whether a task has a training split. It does unless its file says otherwise."""
    if is_stock(name):
        return bool(load_tasks([name])[name].has_training_docs())
    return _file(name).get("training_split", "train") is not None


def task_languages(name: str) -> list[str]:
    """Return the languages that determine a task's role: its own, or the sides of a direction but English."""
    if is_stock(name):
        return re.findall(r"\{(.+)\}", name) or ["en"]
    *others, last = str(metadata(name)["language"]).split("-")
    return [code for code in (*others, last) if code != "en"] if others else [last]


def task_code(group: str, language: str) -> str:
    """Return a group's code for a language, such as `zh` for `zh_cn`, or the same code if it has none."""
    names = expand([stock_task(group, language)])
    codes = {code for name in names for code in task_languages(name)}
    return counterpart(language, codes) or language


def task_names(group: str, languages: Sequence[str]) -> list[str]:
    """Return the group's tasks in some languages, in the order of the languages.

    For translation, these are the directions among the languages and English. Raises TaskError for a language
    that the group does not have.
    """
    if is_stock(group):
        if len(languages) > 1 and "{language}" not in group:
            raise TaskError(
                f"{group} is a single task, but the recipe has {len(languages)} languages: "
                f"name it with {{language}}, such as lm_eval:mgsm_direct_{{language}}"
            )
        return [stock_task(group, language) for language in languages]
    languages_of = {name: task_languages(name) for name in expand([group])}
    known = {code for codes in languages_of.values() for code in codes}
    names: dict[str, None] = {}
    for language in languages:
        if language not in known:
            raise TaskError(unknown_name(group, "language", language, sorted(known)))
        tasks = (name for name, codes in languages_of.items() if language in codes)
        names.update(dict.fromkeys(name for name in tasks if set(languages_of[name]) <= set(languages)))
    return list(names)


def tasks_in_languages(names: Sequence[str], languages: Sequence[str]) -> list[str]:
    """Return the names with each group replaced by its tasks in some languages. Single tasks stay.

    For translation, these are the directions among the languages and English. No languages mean all of them.
    Raises TaskError for a language that a group does not have.
    """
    if not languages:
        return list(names)
    chosen: dict[str, None] = {}
    for name in map(group_name, names):
        is_group = not is_stock(name) and "group" in _file(name)
        if not is_group:
            chosen[name] = None
            continue
        known = {code for task in expand([name]) for code in task_languages(task)}
        codes = [task_code(name, language) for language in languages]
        # English is a side of every direction, and not a language of its own there.
        codes = [code for code in codes if code != "en" or "en" in known or len(codes) == 1]
        chosen.update(dict.fromkeys(task_names(name, codes)))
    return list(chosen)


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


def load_tasks(names: Sequence[str]) -> dict[str, Any]:
    """Return lm-eval's task objects by name. Only the files of these tasks are read.

    An index of all of ours takes a second to build, and the 14,000 files of lm-eval's own take ten.
    """
    from lm_eval.tasks import TaskManager

    leaves = expand(names)
    logger = logging.getLogger("lm_eval.api.task")
    logger.addFilter(_worth_reading)
    try:
        ours = [name for name in leaves if not is_stock(name)]
        specs = [_own_task(name) if own.is_own(name) else str(_paths()[name]) for name in ours]
        tasks: dict[str, Any] = TaskManager(include_defaults=False).load(specs)["tasks"] if specs else {}
        tasks |= {name: _stock(name) for name in leaves if is_stock(name)}
    finally:
        logger.removeFilter(_worth_reading)
    return {name: tasks[name] for name in leaves}


@cache
def _stock(name: str) -> Any:
    """Load one of lm-eval's own tasks, or a YAML file, for which no index is needed."""
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    stock_name = re.sub(r"[{}]", "", name.removeprefix(STOCK))
    is_file = stock_name.endswith(".yaml")
    try:
        spec = load_yaml(Path(stock_name)) if is_file else stock_name
        (task,) = TaskManager(include_defaults=not is_file).load([spec])["tasks"].values()
    except (KeyError, ValueError, OSError) as error:
        raise TaskError(f"{name}: lm-eval has no single task named {stock_name!r} ({error})") from error
    return task


def _worth_reading(entry: logging.LogRecord) -> bool:
    """Return False for lm-eval's hint of two lines per task that custom data sets may take options."""
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
