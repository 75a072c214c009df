"""Middle-layer alignment for multilingual transfer: benchmark, trainer, evaluation, leaderboard.

The functions for scripts and notebooks are `midalign.load_recipe`, `midalign.train_recipe`,
`midalign.evaluate_models` and the others of `ENTRY_POINTS`. Each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midalign.analyze.layers import analyze_layers as analyze_layers
    from midalign.evaluate.run import evaluate_models as evaluate_models
    from midalign.evaluate.settings import EvalSettings as EvalSettings
    from midalign.leaderboard.build import build_board as build_board
    from midalign.leaderboard.build import compare_arms as compare_arms
    from midalign.leaderboard.build import compare_records as compare_records
    from midalign.leaderboard.load import load_record as load_record
    from midalign.merge import merge_adapters as merge_adapters
    from midalign.merge.weights import MergeWeights as MergeWeights
    from midalign.train.recipe import load_recipe as load_recipe
    from midalign.train.run import train_recipe as train_recipe

__version__ = "0.1.0"

ENTRY_POINTS = {
    "EvalSettings": "midalign.evaluate.settings",
    "MergeWeights": "midalign.merge.weights",
    "analyze_layers": "midalign.analyze.layers",
    "build_board": "midalign.leaderboard.build",
    "compare_arms": "midalign.leaderboard.build",
    "compare_records": "midalign.leaderboard.build",
    "evaluate_models": "midalign.evaluate.run",
    "load_recipe": "midalign.train.recipe",
    "load_record": "midalign.leaderboard.load",
    "merge_adapters": "midalign.merge",
    "train_recipe": "midalign.train.run",
}
"""Name -> module that defines it."""


def __getattr__(name: str) -> Any:
    """Import an entry point."""
    if name not in ENTRY_POINTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(ENTRY_POINTS[name]), name)


def __dir__() -> list[str]:
    """List the entry points beside what is imported."""
    return sorted({*globals(), *ENTRY_POINTS})
