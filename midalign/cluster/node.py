"""Tasks that run on the nodes of a Ray cluster, each in a process of its own."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from midalign import adapter
from midalign.evaluate import run as evaluation
from midalign.evaluate.settings import EvalSettings
from midalign.sweep.point_adapters import adapters_to_score
from midalign.sweep.points import Point
from midalign.train.evaluation_command import evaluated_tasks
from midalign.train.recipe import Recipe
from midalign.train.run import train_recipe


class TaskBoard:
    """An actor on the driver's node that knows which tasks have started on which node."""

    def __init__(self) -> None:
        self.nodes: dict[int, str] = {}

    def begin(self, number: int, node: str) -> None:
        """Record that a node has started a task."""
        self.nodes[number] = node

    def read(self) -> dict[int, str]:
        """Return the node of each started task by its number."""
        return self.nodes


def run_task(
    board: Any, number: int, folder: str, function: Callable[..., None], arguments: Sequence[Any]
) -> None:
    """Run a task on its node.

    Args:
        board: handle of the TaskBoard.
        number: the task's number.
        folder: the client's working folder, to which relative paths in recipes refer.
        function: a function of this module.
        arguments: its arguments.
    """
    import ray

    board.begin.remote(number, ray.get_runtime_context().get_node_id())
    if os.path.isdir(folder):
        os.chdir(folder)
    function(*arguments)


def train_adapter(recipe: Recipe, arm: str, seed: int) -> None:
    """Train one adapter.

    Other runs may train at the same time: each has a folder and checkpoints of its own, and caches are
    written atomically. Ray restarts a run only if it considers the first process dead, which then ends with
    its node.
    """
    train_recipe(recipe.model_copy(update={"seeds": [seed]}), arms=[arm])


def generate_answers(settings: EvalSettings) -> None:
    """Generate an adapter's answers. The final evaluation scores them."""
    evaluation.answer_ahead(settings)


def score_adapters(recipes: Sequence[Recipe], points: Sequence[Point], results: Path) -> None:
    """Score all adapters.

    Merged points are made and evaluated here too, because their parents exist only now. There are few.
    """
    adapters = [folder for recipe in recipes for folder in adapters_to_score(recipe, points)]
    evaluation.evaluate_models(evaluation_settings(recipes[0], adapters, results))


def inspect_node(tokens: Sequence[Path], folders: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """Return the folders that this node cannot see, and the versions of its packages.

    Args:
        tokens: files that the driver has created in the folders to look for.
        folders: local base models.
    """
    missing = [token.parent for token in tokens if not token.is_file()]
    missing += [folder for folder in folders if not (folder / "config.json").is_file()]
    return missing, adapter.package_versions()


def evaluation_settings(recipe: Recipe, adapters: Sequence[Path], results: Path) -> EvalSettings:
    """Return the settings of the evaluation that `midalign sweep` runs."""
    asked = recipe.evaluation
    return EvalSettings(
        base=recipe.base,
        tasks=tuple(evaluated_tasks(recipe)),
        output=results,
        adapters=tuple(adapters),
        adapters_only=bool(adapters) and not asked.base,
        engine=asked.engine,
        split=asked.split,
        limit=asked.limit,
        note=asked.note or "",
        save_outputs=True,
        apply_chat_template=recipe.chat_template,
        system_instruction=recipe.system_instruction,
    )
