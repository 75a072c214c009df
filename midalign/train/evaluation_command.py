"""The evaluation that a recipe asks for, as a command line of `midalign eval`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from midalign import harness
from midalign.train.recipe import Recipe


def evaluated_tasks(recipe: Recipe) -> list[str]:
    """Return the names of the tasks or groups that the recipe's evaluation scores."""
    languages = recipe.evaluation.languages
    return [recipe.task] if languages == "all" else harness.task_names(recipe.task, languages)


def evaluation_command(recipe: Recipe, adapters: Sequence[Path], results: Path) -> list[str]:
    """Return the command line that scores adapters as the recipe says, with the prompts of its training."""
    evaluation = recipe.evaluation
    options = {
        "--base": recipe.base,
        "--tasks": ",".join(evaluated_tasks(recipe)),
        "--engine": evaluation.engine,
        "--split": evaluation.split,
        "--output": str(results),
        "--limit": evaluation.limit,
        "--note": evaluation.note,
        "--system-instruction": recipe.system_instruction,
    }
    command = [sys.executable, "-m", "midalign", "eval"]
    command += [str(word) for option in options.items() if option[1] is not None for word in option]
    command += [word for adapter in adapters for word in ("--adapter", str(adapter))]
    command += ["--apply-chat-template"] if recipe.chat_template else []
    command += [] if evaluation.base else ["--adapters-only"]
    command += ["--no-comparison"]  # the caller compares
    return command
