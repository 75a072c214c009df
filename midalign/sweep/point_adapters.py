"""The adapters of a sweep's points, which are trained or merged."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from midalign import adapter
from midalign.errors import RecipeError
from midalign.locks import locked
from midalign.merge import merge_adapters
from midalign.merge.weights import path_part
from midalign.sweep.points import ALONE, BASELINE, Point
from midalign.train.recipe import Recipe
from midalign.train.run import training_runs


def adapters_to_score(recipe: Recipe, points: Sequence[Point]) -> list[Path]:
    """Return the adapters of a trained recipe to score, and create missing merged ones."""
    _check_dtypes(recipe, points)
    trained = [folder for arm, _, folder in training_runs(recipe) if arm != ALONE]
    merged = [point for point in points if point.recipe.name == recipe.name and point.weights]
    return [*trained, *(_merged(point, seed) for point in merged for seed in recipe.seeds)]


def _folders(point: Point, seed: int) -> list[Path]:
    """Return the adapter folders of the point's baseline and of its arm."""
    folders = {
        (arm, seed): folder
        for recipe in (point.against, point.recipe)
        for arm, seed, folder in training_runs(recipe)
    }
    return [folders[BASELINE, seed], folders[point.arm, seed]]


def _check_dtypes(recipe: Recipe, points: Sequence[Point]) -> None:
    """Raise RecipeError if a point was trained in another dtype than its baseline."""
    for point in (point for point in points if point.recipe.name == recipe.name):
        for seed in recipe.seeds:
            folders = _folders(point, seed)
            manifests = [adapter.read_manifest(folder) for folder in folders]
            dtypes = [manifest.dtype if manifest else None for manifest in manifests]
            if None not in dtypes and dtypes[0] != dtypes[1]:
                raise RecipeError(
                    f"{folders[1]} was trained in {dtypes[1]} and its baseline {folders[0]} in {dtypes[0]}: "
                    f"their difference would include that of the dtypes. Remove one of the folders and rerun "
                    f"the same sweep on hardware for the other's dtype, or use one dtype for all points in "
                    f"another folder: dtype=float32 output=OTHER"
                )


def _merged(point: Point, seed: int) -> Path:
    """Return the point's merged adapter of a seed, and merge again if its parents have changed."""
    assert point.weights is not None
    parents = _folders(point, seed)
    folder = point.recipe.output / "merged" / path_part(f"{point.weights}-seed{seed}")
    with locked(folder):
        manifest = adapter.read_manifest(folder)
        known = [parent.digest for parent in manifest.parents or ()] if manifest else []
        if known != [adapter.adapter_digest(parent) for parent in parents]:
            shutil.rmtree(folder, ignore_errors=True)
            merge_adapters(parents, point.weights, folder)
    return folder
