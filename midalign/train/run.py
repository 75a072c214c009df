"""From a recipe to adapters on disk."""

import errno
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from midalign import adapter, bases, guard, harness
from midalign.data import overlap
from midalign.data.overlap import Overlap
from midalign.errors import OverlapError, RecipeError, TrainingError, nearest
from midalign.files import write_atomically
from midalign.locks import locked
from midalign.train import card
from midalign.train.recipe import Recipe

if TYPE_CHECKING:
    from midalign.device import Dtype
    from midalign.train.build import Arm
    from midalign.train.stream import TaskSamples

log = logging.getLogger(__name__)

LOG = "training.jsonl"
"""Beside an adapter, a line for every update and every measurement of its training."""

SHOWN = 4
"""Overlaps in the message of a run that is stopped: one screen."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, told after every update."""

    arm: str
    seed: int
    update: int
    updates: int
    losses: dict[str, float]
    tokens_per_second: float


Report = Callable[[Progress], None]


def runs(recipe: Recipe, arms: Collection[str] | None = None) -> Iterator[tuple[str, int, Path]]:
    """(arm, seed, adapter folder) of every run of these arms, None for all; baseline first within a seed.

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


def train(recipe: Recipe, report: Report, arms: Collection[str] | None = None) -> list[Path]:
    """Train what is not there yet of these arms, None for all, and return their adapter folders.

    Finished adapters are kept, a killed run goes on from its last checkpoint. Raises RecipeError where a
    folder holds an adapter of another recipe, OverlapError where the training text, that of finished adapters
    too, holds what is evaluated.
    """
    from midalign.train.distributed import join
    from midalign.train.stream import check_roles

    join()
    check_roles(recipe)
    bases.resolve(recipe.base)
    wanted = [run for run in runs(recipe, arms) if not finished(run[2], recipe, run[0])]
    # Of finished adapters too: since they were trained, the recipe may evaluate on another split.
    found = overlaps(recipe, {arm for arm, _, _ in runs(recipe, arms)})
    samples = None  # rendered once for all arms
    for arm, seed, folder in wanted:
        with _run_lock(folder):
            if not finished(folder, recipe, arm):  # by another process, while this one waited
                samples = _train_arm(recipe, arm, seed, folder, found[arm], report, samples)
    return [folder for _, _, folder in runs(recipe, arms)]


def training_sources(recipe: Recipe, arm: str) -> list[adapter.TrainingText]:
    """Return the sources of the text that an arm is trained on, with their digests."""
    align = recipe.align_of(arm)
    found = []
    if align is None or align.task:
        found.append(guard.training_text("task", recipe.task, recipe.supervised))
    if align is not None:
        found.append(guard.training_text("pairs", align.pairs, recipe.aligned))
    return found


def overlaps(recipe: Recipe, arms: Collection[str]) -> dict[str, list[Overlap] | None]:
    """Return the overlap of the recipe's evaluation and each arm's training text, None if not checked.

    Raises OverlapError, with counts and examples, where there is any and the recipe does not allow it.
    """
    if harness.is_stock(recipe.task):
        return dict.fromkeys(arms)  # midalign does not know the texts of lm-eval's tasks
    languages = recipe.evaluation.languages
    tasks = [recipe.task] if languages == "all" else harness.task_names(recipe.task, languages)
    scored = guard.scored(tasks, recipe.evaluation.split) if arms else []
    supervised = guard.supervised(harness.training_tasks(recipe.task, recipe.supervised)) if arms else []
    found = {}
    for arm in (arm for arm in recipe.arms if arm in arms):
        align = recipe.align_of(arm)
        learned = guard.aligned(align.pairs, recipe.aligned) if align else []
        if align is None or align.task:
            learned = [*supervised, *learned]
        found[arm] = [one for one in overlap.find_overlaps(learned, scored) if one.found]
    distinct = dict.fromkeys(one for several in found.values() for one in several)
    if distinct and not recipe.allow_overlap:
        worst = sorted(distinct, key=lambda one: one.found, reverse=True)[:SHOWN]
        more = f"  ... and {len(distinct) - SHOWN} more\n" if len(distinct) > SHOWN else ""
        raise OverlapError(
            f"recipe {recipe.name}: the training text holds what is evaluated.\n"
            f"{guard.describe_overlaps(worst)}\n{more}"
            f"Train or evaluate on something else (supervised, align.pairs, task, evaluation.languages), or "
            f"accept it with allow_overlap=true: the records then say so, and the leaderboard marks them"
        )
    return dict(found)


def finished(folder: Path, recipe: Recipe, arm: str) -> bool:
    """Return whether the folder holds an adapter of this arm.

    Raises RecipeError where it holds one of another recipe, or of another base or tokenizer of that name.
    """
    manifest = adapter.read_manifest(folder)
    if manifest is None:
        return False
    _check_content(folder, manifest, recipe)
    if manifest.recipe.digest != recipe.digest(arm):
        raise RecipeError(
            f"{folder} holds an adapter of another recipe ({manifest.recipe.name}, digest "
            f"{manifest.recipe.digest[:12]}; this one is {recipe.name}, {recipe.digest(arm)[:12]}). "
            f"Train elsewhere: output=OTHER, or remove that folder"
        )
    # Of a run that was killed between its adapter's last byte and its checkpoints' removal.
    shutil.rmtree(_work(folder), ignore_errors=True)
    return True


def _check_content(folder: Path, manifest: adapter.Manifest, recipe: Recipe) -> None:
    """Raise RecipeError where the recipe's base has other files than the one the adapter was trained on."""
    base = str(bases.resolve(recipe.base))
    compared = [("base", manifest.base_digest, adapter.base_digest(base))]
    if manifest.tokenizer_digest is not None:
        compared.append(("tokenizer", manifest.tokenizer_digest, adapter.tokenizer_digest(base)))
    for what, trained, found in compared:
        if trained != found:
            raise RecipeError(
                f"{folder} holds an adapter that was trained with another {what} (digest {trained[:12]}; "
                f"that of {recipe.base} is {found[:12]}). "
                f"Train elsewhere: output=OTHER, or remove that folder"
            )


@contextmanager
def _run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a training run. Of processes that train together the main one holds it."""
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
    """Where an adapter's checkpoints lie while it trains."""
    return folder.with_name(f".{folder.name}.training")


def _train_arm(
    recipe: Recipe,
    arm: str,
    seed: int,
    folder: Path,
    found: list[Overlap] | None,
    report: Report,
    samples: "TaskSamples | None",
) -> "TaskSamples":
    """One adapter: checkpoints beside it while it trains, the folder itself only when it is whole."""
    from accelerate import PartialState

    from midalign.train.build import build
    from midalign.train.callbacks import ReportUpdates
    from midalign.train.checkpoints import SealCheckpoints, last_intact_checkpoint, step_of
    from midalign.train.monitor import Log, Monitor

    work = _work(folder)
    with PartialState().main_process_first():
        dtype = _claim(work, recipe, arm)
        checkpoint = last_intact_checkpoint(work)
    trained_on = training_sources(recipe, arm)  # before training, since the text may change meanwhile
    ready = build(recipe.model_copy(update={"dtype": dtype}), arm, seed, work, samples)
    trainer, align = ready.trainer, ready.align
    # The other processes measure too, since all must do the same, and write nothing.
    written = Log(work / LOG, step_of(checkpoint)) if trainer.is_world_process_zero() else None
    trainer.accelerator.wait_for_everyone()
    trainer.add_callback(ReportUpdates(trainer, arm, seed, report, written))
    trainer.add_callback(SealCheckpoints(trainer, work))
    monitor = Monitor(ready, work, written) if recipe.monitor is not None else None
    if monitor is not None:
        trainer.add_callback(monitor)
    start = time.monotonic()
    if monitor is None or not monitor.ended:  # else it ended before it could be published
        with full_disks_named(work), memory_named(recipe):
            trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.wait_for_everyone()
    best = monitor.best if monitor is not None else None
    published = best[0] if best is not None else trainer.state.global_step
    losses, tokens = Log.training(work / LOG, published)
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
        overlap=None if found is None else [one.figures() for one in found],
    )
    with full_disks_named(work):
        _publish(ready, manifest, work, folder)
    return ready.stream.task


def _updates(ready: "Arm", published: int) -> int:
    """Return how many of the recipe's updates the weights have seen: all, or those until the best one.

    Updates of alignment alone, which come on top of the task's, do not count.
    """
    plan = ready.stream.plan
    if published == len(plan):
        return ready.recipe.updates
    kind = "task" if ready.align is None or ready.align.task else "pairs"
    return sum(any(step.kind == kind for step in steps) for steps in plan[:published])


@contextmanager
def full_disks_named(folder: Path) -> Iterator[None]:
    """Raise what torch and safetensors say of a full disk as the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except (RuntimeError, SafetensorError):
        if shutil.disk_usage(folder).free > 1 << 20:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None


@contextmanager
def memory_named(recipe: Recipe) -> Iterator[None]:
    """Raise what torch says of full memory as a TrainingError that names the setting to change."""
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
            f"out of memory: {str(error).splitlines()[0]}\n"
            f"Set max_batch_tokens ({budget}) to 2048 or less, recompute=true, or load_in_4bit=true. "
            f"The first and the second change no gradient"
        ) from None


def _claim(work: Path, recipe: Recipe, arm: str) -> "Dtype":
    """Mark an arm's checkpoint folder with the recipe, its dtype and the content of its base and tokenizer.

    Empty a folder of other ones that has no checkpoint yet. Raises RecipeError for one that has.

    Returns:
        The dtype to train in: that in which the run was begun, also where this machine is faster in another.
    """
    from midalign.device import fast_dtype

    mark = work / "recipe.json"
    base = bases.resolve(recipe.base)
    decides = {
        "digest": recipe.digest(arm),
        "base": adapter.base_digest(base),
        "tokenizer": adapter.tokenizer_digest(base),
    }
    settings = recipe.model_dump(mode="json")
    begun = json.loads(mark.read_text("utf-8")) if mark.is_file() else {}
    dtype = fast_dtype() if recipe.dtype == "auto" else recipe.dtype
    if {key: begun.get(key) for key in decides} == decides:
        return cast("Dtype", begun.get("dtype") or dtype)
    if any(work.glob("checkpoint-*")):
        before = begun.get("recipe", {})
        changed = [key for key, value in settings.items() if before.get(key) != value]
        if begun.get("digest") == decides["digest"]:
            changed = [f"files of the {key}" for key in decides if begun.get(key) != decides[key]]
        raise RecipeError(
            f"{work} was begun with other settings ({', '.join(changed) or 'other files of align.pairs'}). "
            f"Resume with the earlier ones, remove that folder, or train elsewhere: output=OTHER"
        )
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    write_atomically(mark, json.dumps({**decides, "dtype": dtype, "recipe": settings}, indent=1).encode())
    return dtype


def _publish(ready: "Arm", manifest: adapter.Manifest, work: Path, folder: Path) -> None:
    """Write the adapter whole, then give it its name and drop the checkpoints."""
    from midalign.train.plain import plain_copy
    from midalign.train.trainer import starts_in_base

    trainer = ready.trainer
    best = work / "best"
    finished = best if best.is_dir() else work / "adapter"
    if finished != best:
        trainer.save_model(str(finished))
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    if starts_in_base(trainer.model):
        finished = plain_copy(finished, work / "plain", trainer.initial_by_name())
    if ready.recipe.lora is None:  # a model to load by itself
        ready.tokens.tokenizer.save_pretrained(finished)
    else:
        _sort_targets(finished / adapter.CONFIG)
    (finished / "training_args.bin").unlink(missing_ok=True)  # a pickle with paths of this machine
    (finished / adapter.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    shutil.copyfile(work / LOG, finished / LOG)
    card.write(finished)
    os.replace(finished, folder)
    shutil.rmtree(work, ignore_errors=True)  # a command that finds the adapter removes it too


def _sort_targets(config: Path) -> None:
    """peft writes them in an order of the process's own; without it equal adapters have equal digests."""
    settings = json.loads(config.read_text("utf-8"))
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
        config.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
