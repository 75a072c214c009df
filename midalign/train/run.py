"""Train the arms of a recipe and publish their adapters."""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from midalign import adapter, bases, guard, harness
from midalign.data import overlap
from midalign.data.overlap import Overlap
from midalign.errors import OverlapError, RecipeError, TrainingError, first_line, nearest
from midalign.files import write_atomically
from midalign.locks import locked
from midalign.model_card import write_card
from midalign.reporting import ignore_progress
from midalign.train.arm_settings import arm_settings, setting_differences
from midalign.train.evaluation_command import evaluated_tasks
from midalign.train.progress import TRAINING_LOG, OnTrainProgress
from midalign.train.recipe import Recipe

if TYPE_CHECKING:
    from midalign.device import Dtype
    from midalign.train.build import Arm
    from midalign.train.task_samples import TaskSamples

log = logging.getLogger(__name__)

SHOWN = 4
"""Overlaps in an error message. More would not fit on a screen."""

SHOWN_KEYS = 8
"""Most differing keys in an error message."""


def training_runs(recipe: Recipe, arms: Collection[str] | None = None) -> Iterator[tuple[str, int, Path]]:
    """Yield (arm, seed, adapter folder) of every run of these arms, None for all, seed after seed.

    Raises RecipeError for an arm that the recipe lacks.
    """
    for arm in arms or ():
        if arm not in recipe.arms:
            raise RecipeError(
                f"recipe {recipe.name} has no arm {arm!r}.{nearest(arm, recipe.arms)} "
                f"Its arms: {', '.join(recipe.arms)}"
            )
    for seed in recipe.seeds:
        for arm in recipe.arms if arms is None else arms:
            yield arm, seed, recipe.output / "adapters" / f"{arm}-seed{seed}"


def train_recipe(
    recipe: Recipe, report: OnTrainProgress = ignore_progress, arms: Collection[str] | None = None
) -> list[Path]:
    """Train the missing adapters of these arms, None for all, and return all their folders.

    Finished adapters are kept. Interrupted runs resume from their last checkpoint.

    Raises RecipeError if a folder holds an adapter of another recipe, and OverlapError if the training text,
    including that of finished adapters, contains evaluation text.
    """
    from midalign.train.distributed import join_launch
    from midalign.train.recipe_checks import check_roles

    join_launch()
    check_roles(recipe)
    bases.resolve(recipe.base)
    wanted = [run for run in training_runs(recipe, arms) if not is_trained(run[2], recipe, run[0])]
    # Finished adapters are checked too: the recipe may evaluate on another split since they were trained.
    overlaps = evaluation_overlaps(recipe, {arm for arm, _, _ in training_runs(recipe, arms)})
    samples = None  # rendered once for all arms
    for arm, seed, folder in wanted:
        with _run_lock(folder):
            if not is_trained(folder, recipe, arm):  # another process may have finished it meanwhile
                samples = _train_arm(recipe, arm, seed, folder, overlaps[arm], report, samples)
    return [folder for _, _, folder in training_runs(recipe, arms)]


def training_sources(recipe: Recipe, arm: str) -> list[adapter.TrainingText]:
    """Return the sources of the text that an arm is trained on, with their digests."""
    align = recipe.align_of(arm)
    sources = []
    if align is None or align.task:
        sources.append(guard.training_text("task", recipe.task, recipe.supervised))
    if align is not None:
        sources.append(guard.training_text("pairs", align.pairs, recipe.aligned))
    return sources


def evaluation_overlaps(recipe: Recipe, arms: Collection[str]) -> dict[str, list[Overlap] | None]:
    """Return the overlap between each arm's training text and the evaluation, None if not checked.

    Raises OverlapError, with counts and examples, for an overlap that the recipe does not allow.
    """
    if harness.is_stock(recipe.task):
        return dict.fromkeys(arms)  # the texts of lm-eval's tasks are not known
    scored = guard.scored(evaluated_tasks(recipe), recipe.evaluation.split) if arms else []
    supervised = guard.supervised(harness.training_tasks(recipe.task, recipe.supervised)) if arms else []
    overlaps = {}
    for arm in (arm for arm in recipe.arms if arm in arms):
        align = recipe.align_of(arm)
        learned = guard.aligned(align.pairs, recipe.aligned) if align else []
        if align is None or align.task:
            learned = [*supervised, *learned]
        overlaps[arm] = [entry for entry in overlap.find_overlaps(learned, scored) if entry.found]
    distinct = dict.fromkeys(entry for of_arm in overlaps.values() for entry in of_arm)
    if distinct and not recipe.allow_overlap:
        worst = sorted(distinct, key=lambda entry: entry.found, reverse=True)[:SHOWN]
        more = f"  ... and {len(distinct) - SHOWN} more\n" if len(distinct) > SHOWN else ""
        raise OverlapError(
            f"recipe {recipe.name}: the training text contains evaluation text.\n"
            f"{guard.describe_overlaps(worst)}\n{more}"
            f"Train or evaluate on other text (supervised, align.pairs, task, evaluation.languages), or "
            f"accept the overlap with allow_overlap=true: records and leaderboard then show it"
        )
    return dict(overlaps)


def is_trained(folder: Path, recipe: Recipe, arm: str) -> bool:
    """Return whether the folder holds a finished adapter of this arm.

    Raises RecipeError if the adapter belongs to another recipe, or to other files of the base or tokenizer.
    """
    manifest = adapter.read_manifest(folder)
    if manifest is None:
        return False
    _check_content(folder, manifest, recipe)
    if manifest.recipe.digest != recipe.digest(arm):
        raise RecipeError(
            f"{folder} holds an adapter of another recipe: {_recipe_differences(manifest, recipe, arm)}. "
            f"Train elsewhere: output=OTHER, or remove that folder"
        )
    # A run may have been killed after publishing its adapter and before removing its checkpoints.
    shutil.rmtree(_work(folder), ignore_errors=True)
    return True


def _recipe_differences(manifest: adapter.Manifest, recipe: Recipe, arm: str) -> str:
    """Return in words how an adapter's recipe differs from another with another digest."""
    if manifest.settings is None:
        return (
            f"recipe {manifest.recipe.name}, digest {manifest.recipe.digest[:12]}, instead of {recipe.name}, "
            f"{recipe.digest(arm)[:12]}. An earlier version of midalign trained it without storing the "
            f"recipe, so the differing keys are unknown"
        )
    return _listed(setting_differences(manifest.settings, arm_settings(recipe, arm)))


def _listed(differences: Sequence[str]) -> str:
    """Return differences for a message.

    Settings without a difference have another digest if folders or the content of files differ.
    """
    more = f"; and {len(differences) - SHOWN_KEYS} more keys" if len(differences) > SHOWN_KEYS else ""
    return (
        f"{'; '.join(differences[:SHOWN_KEYS])}{more}"
        or "other files of align.pairs, or other paths in task or arguments"
    )


def _check_content(folder: Path, manifest: adapter.Manifest, recipe: Recipe) -> None:
    """Raise RecipeError if the recipe's base has other files than the adapter was trained on."""
    base = str(bases.resolve(recipe.base))
    compared = [("base", manifest.base_digest, adapter.base_digest(base))]
    if manifest.tokenizer_digest is not None:
        compared.append(("tokenizer", manifest.tokenizer_digest, adapter.tokenizer_digest(base)))
    for part, trained, current in compared:
        if trained != current:
            raise RecipeError(
                f"{folder} holds an adapter that was trained with another {part} (digest {trained[:12]}; "
                f"that of {recipe.base} is {current[:12]}). "
                f"Train elsewhere: output=OTHER, or remove that folder"
            )


@contextmanager
def _run_lock(folder: Path) -> Iterator[None]:
    """Lock a training run. Among processes that train together, the main one holds the lock."""
    from accelerate import PartialState

    state = PartialState()
    if not state.is_main_process:
        state.wait_for_everyone()
        yield
        return
    with locked(folder):
        state.wait_for_everyone()
        yield


def _work(folder: Path) -> Path:
    """Return the folder of an adapter's checkpoints during training."""
    return folder.with_name(f".{folder.name}.training")


def _train_arm(
    recipe: Recipe,
    arm: str,
    seed: int,
    folder: Path,
    overlaps: list[Overlap] | None,
    report: OnTrainProgress,
    samples: "TaskSamples | None",
) -> "TaskSamples":
    """Train one adapter and return its task samples, for the next arm.

    Checkpoints lie beside `folder`, which appears once the adapter is complete.
    """
    from accelerate import PartialState

    from midalign.train.build import build_arm
    from midalign.train.callbacks import ReportUpdates
    from midalign.train.checkpoints import SealCheckpoints, checkpoint_update, last_intact_checkpoint
    from midalign.train.monitor import Monitor
    from midalign.train.progress import TrainingLog

    # 1. Claim the work folder, and find the checkpoint to resume from.
    work = _work(folder)
    with PartialState().main_process_first():
        dtype = _claim(work, recipe, arm)
        checkpoint = last_intact_checkpoint(work)
    # 2. Digest the training text, which may change during training, and build the trainer.
    trained_on = training_sources(recipe, arm)
    ready = build_arm(recipe.model_copy(update={"dtype": dtype}), arm, seed, work, samples)
    trainer, align = ready.trainer, ready.align
    # 3. Attach callbacks in every process, since measuring is collective. Only the main process writes.
    written = (
        TrainingLog(work / TRAINING_LOG, checkpoint_update(checkpoint))
        if trainer.is_world_process_zero()
        else None
    )
    trainer.accelerator.wait_for_everyone()
    trainer.add_callback(ReportUpdates(trainer, arm, seed, report, written))
    trainer.add_callback(SealCheckpoints(trainer, work))
    monitor = Monitor(ready, work, written) if recipe.monitor is not None else None
    if monitor is not None:
        trainer.add_callback(monitor)
    # 4. Train, unless early stopping had ended this run before it was interrupted.
    start = time.monotonic()
    if monitor is None or not monitor.ended:
        with name_full_disks(work), name_full_memory(recipe):
            trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.wait_for_everyone()
    # 5. Publish the best weights if the monitor chooses them, otherwise the last.
    best = monitor.best if monitor is not None else None
    published = best[0] if best is not None else trainer.state.global_step
    losses, tokens = TrainingLog.training(work / TRAINING_LOG, published)
    manifest = adapter.Manifest(
        name=f"{recipe.name}-{arm}-seed{seed}",
        arm=arm,
        seed=seed,
        recipe=recipe.reference(arm),
        base=recipe.base_name,
        base_digest=adapter.base_digest(bases.resolve(recipe.base)),
        tokenizer_digest=adapter.tokenizer_digest(bases.resolve(recipe.base)),
        dtype=dtype,
        task=recipe.task,
        supervised=recipe.supervised,
        aligned=recipe.aligned,
        layer=ready.layer if align else None,
        pairs=align.pairs if align else None,
        updates=_updates(ready, published),
        tokens=tokens,
        seconds=round(time.monotonic() - start, 1),
        packages=adapter.package_versions(),
        training=losses,
        trained_on=trained_on,
        overlap=None if overlaps is None else [entry.figures() for entry in overlaps],
        settings=arm_settings(recipe, arm),
        base_hub_id=recipe.base_hub_id or bases.hub_id(recipe.base),
        base_licence=bases.stated_licence(adapter.base_folder(bases.resolve(recipe.base))),
    )
    with name_full_disks(work):
        _publish(ready, manifest, work, folder)
    return ready.stream.task


def _updates(ready: "Arm", published: int) -> int:
    """Return the number of the recipe's updates that the published weights have seen.

    Updates of alignment alone are added to the recipe's and do not count.
    """
    plan = ready.stream.plan
    if published == len(plan):
        return ready.recipe.updates
    kind = "task" if ready.align is None or ready.align.task else "pairs"
    return sum(any(step.kind == kind for step in steps) for steps in plan[:published])


@contextmanager
def name_full_disks(folder: Path) -> Iterator[None]:
    """Convert disk-full errors of torch and safetensors to OSError."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(folder).free > 1 << 20:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error


@contextmanager
def name_full_memory(recipe: Recipe) -> Iterator[None]:
    """Convert torch's out-of-memory errors to a TrainingError that names the settings to change."""
    import torch

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(
            error
        )
        if not full:
            raise
        budget = f"now {recipe.max_batch_tokens}" if recipe.max_batch_tokens else "unset: all in one forward"
        raise TrainingError(
            f"out of memory: {first_line(error)}\n"
            f"Set max_batch_tokens ({budget}) to 2048 or less, recompute=true, or load_in_4bit=true. "
            f"The first and the second change no gradient"
        ) from error


def _claim(work: Path, recipe: Recipe, arm: str) -> "Dtype":
    """Mark an arm's checkpoint folder with its recipe, dtype, and digests of base and tokenizer.

    A folder with another mark is emptied if it has no checkpoint. Raises RecipeError if it has one.

    Returns:
        The dtype to train in. A resumed run keeps the dtype it started with, even if another is faster here.
    """
    from midalign.device import fast_dtype

    mark = work / "recipe.json"
    base = bases.resolve(recipe.base)
    decides = {
        "digest": recipe.digest(arm),
        "base": adapter.base_digest(base),
        "tokenizer": adapter.tokenizer_digest(base),
    }
    begun = json.loads(mark.read_text("utf-8")) if mark.is_file() else {}
    dtype = fast_dtype() if recipe.dtype == "auto" else recipe.dtype
    if {key: begun.get(key) for key in decides} == decides:
        return cast("Dtype", begun.get("dtype") or dtype)
    if any(work.glob("checkpoint-*")):
        if begun.get("digest") == decides["digest"]:
            changed = ", ".join(f"files of the {key}" for key in decides if begun.get(key) != decides[key])
        else:
            changed = _begun_differences(begun.get("recipe"), recipe, arm)
        raise RecipeError(
            f"{work} was begun with other settings ({changed}). "
            f"Resume with the earlier ones, remove that folder, or train elsewhere: output=OTHER"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    kept = {**decides, "dtype": dtype, "recipe": recipe.model_dump(mode="json")}
    write_atomically(mark, json.dumps(kept, indent=1).encode())
    return dtype


def _begun_differences(begun: Any, recipe: Recipe, arm: str) -> str:
    """Return in words how the recipe that began a run differs from another with another digest.

    Args:
        begun: the begun recipe as JSON, None if its file is missing.
        recipe: the other recipe.
        arm: the arm of both.
    """
    try:
        earlier = arm_settings(Recipe.model_validate(begun), arm)
    except (ValidationError, KeyError):
        return "its recipe is missing or of another version of midalign, so the differing keys are unknown"
    return _listed(setting_differences(earlier, arm_settings(recipe, arm)))


def _publish(ready: "Arm", manifest: adapter.Manifest, work: Path, folder: Path) -> None:
    """Write the complete adapter, move it to its folder and remove the checkpoints."""
    from midalign.train.initial_weights import starts_in_base, write_plain_copy

    trainer = ready.trainer
    best = work / "best"
    finished = best if best.is_dir() else work / "adapter"
    if finished != best:
        trainer.save_model(str(finished))
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    if starts_in_base(trainer.model):
        finished = write_plain_copy(finished, work / "plain", trainer.initial_by_name())
    if ready.recipe.lora is None:  # a complete model is loaded together with its tokenizer
        ready.tokens.tokenizer.save_pretrained(finished)
    else:
        _settle_config(finished / adapter.CONFIG, manifest.base_hub_id)
    (finished / "training_args.bin").unlink(missing_ok=True)  # a pickle that contains paths of this machine
    (finished / adapter.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    shutil.copyfile(work / TRAINING_LOG, finished / TRAINING_LOG)
    write_card(finished)
    os.replace(finished, folder)
    shutil.rmtree(work, ignore_errors=True)  # `is_trained` removes what an interruption leaves


def _settle_config(config: Path, base_hub_id: str | None) -> None:
    """Sort target modules and replace the base's path with its hub id, in place.

    peft writes them in random order and writes a path of this machine.
    """
    settings = json.loads(config.read_text("utf-8"))
    settings["base_model_name_or_path"] = base_hub_id
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
    config.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
