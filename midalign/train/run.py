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
from typing import Any

from midalign import adapter, bases, guard
from midalign.data import overlap
from midalign.data.overlap import Overlap
from midalign.errors import BaseModelError, OverlapError, RecipeError
from midalign.train.recipe import Recipe

log = logging.getLogger(__name__)

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


def runs(recipe: Recipe) -> Iterator[tuple[str, int, Path]]:
    """(arm, seed, adapter folder) of every run, baseline first within a seed."""
    for seed in recipe.seeds:
        for arm in recipe.arms:
            yield arm, seed, recipe.output / "adapters" / f"{arm}-seed{seed}"


def train(recipe: Recipe, report: Report) -> list[Path]:
    """Train what is not there yet and return the adapter folders.

    Finished adapters are kept, a killed run goes on from its last checkpoint. Raises RecipeError where a
    folder holds an adapter of another recipe, OverlapError where the training text holds what is evaluated.
    """
    from midalign.train.stream import check_roles

    check_roles(recipe)
    bases.resolve(recipe.base)
    wanted = [run for run in runs(recipe) if not _finished(run[2], recipe)]
    found = overlaps(recipe, {arm for arm, _, _ in wanted})
    for arm, seed, folder in wanted:
        _train_arm(recipe, arm, seed, folder, found[arm], report)
    return [folder for _, _, folder in runs(recipe)]


def overlaps(recipe: Recipe, arms: Collection[str]) -> dict[str, list[Overlap]]:
    """By arm, what of the recipe's evaluation stands in the arm's training text.

    Raises OverlapError, with counts and examples, where that is anything and the recipe does not allow it.
    """
    from midalign.train.stream import task_names, training_tasks

    languages = recipe.evaluation.languages
    tasks = [recipe.task] if languages == "all" else task_names(recipe.task, languages)
    scored = guard.scored(tasks, recipe.evaluation.split) if arms else []
    supervised = guard.supervised(training_tasks(recipe.task, recipe.supervised)) if arms else []
    found = {}
    for arm in (arm for arm in recipe.arms if arm in arms):
        align = recipe.align_of(arm)
        aligned = guard.aligned(align.pairs, recipe.aligned) if align else []
        found[arm] = [one for one in overlap.overlaps([*supervised, *aligned], scored) if one.found]
    distinct = dict.fromkeys(one for several in found.values() for one in several)
    if distinct and not recipe.allow_overlap:
        worst = sorted(distinct, key=lambda one: one.found, reverse=True)[:SHOWN]
        more = f"  ... and {len(distinct) - SHOWN} more\n" if len(distinct) > SHOWN else ""
        raise OverlapError(
            f"recipe {recipe.name}: the training text holds what is evaluated.\n"
            f"{guard.described(worst)}\n{more}"
            f"Train or evaluate on something else (supervised, align.pairs, task, evaluation.languages), or "
            f"accept it with --allow-overlap: the records then say so, and the leaderboard marks them"
        )
    return found


def _finished(folder: Path, recipe: Recipe) -> bool:
    manifest = adapter.read_manifest(folder)
    if manifest is None:
        return False
    if manifest.recipe.digest != recipe.digest():
        raise RecipeError(
            f"{folder} holds an adapter of another recipe ({manifest.recipe.name}, digest "
            f"{manifest.recipe.digest[:12]}; this one is {recipe.name}, {recipe.digest()[:12]}). "
            f"Train elsewhere: output=OTHER, or remove that folder"
        )
    return True


def load_base(name: str) -> tuple[Any, Any]:
    """Model in fp32 and tokenizer of a base by name, path or hub id; raises BaseModelError."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = bases.resolve(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(
            f"The base {name!r} cannot be loaded: {reason} "
            f"Give a folder with config.json and weights (base=PATH), a hub id, or base=mini"
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return model, tokenizer


def _train_arm(
    recipe: Recipe, arm: str, seed: int, folder: Path, found: list[Overlap], report: Report
) -> None:
    """One adapter: checkpoints beside it while it trains, the folder itself only when it is whole."""
    import peft
    from transformers import PrinterCallback, TrainingArguments, set_seed

    from midalign.align.packing import can_pack
    from midalign.align.rows import WIDTH
    from midalign.align.trunk import depth, layer_index
    from midalign.device import device, has_bf16
    from midalign.train.callbacks import ReportUpdates
    from midalign.train.distributed import rank, world
    from midalign.train.schedule import schedule
    from midalign.train.stream import PairSamples, Stream, TaskSamples, Tokens
    from midalign.train.trainer import AlignmentTrainer

    align = recipe.align_of(arm)
    work = folder.with_name(f".{folder.name}.training")
    _claim(work, recipe)
    set_seed(seed)
    base, tokenizer = load_base(recipe.base)
    try:
        wanted = align.layer if align else "middle"
        layers = [layer_index(one, depth(base)) for one in (wanted if isinstance(wanted, list) else [wanted])]
    except ValueError as error:
        raise RecipeError(f"recipe {recipe.name}: align.layer: {error}") from None
    packed = recipe.packing and can_pack(base)
    if recipe.packing and not packed:
        log.warning("%s does not allow several samples a row; they are padded", type(base).__name__)
    if has_bf16():
        halve_linears(base)
    if device() == "cpu":
        # The backward pass of torch's fused attention in bf16 takes seven times as long there as in fp32.
        base.set_attn_implementation("eager")
    model = peft.get_peft_model(base, _lora(recipe))
    tokens = Tokens(tokenizer, recipe.max_tokens)
    pairs = PairSamples(recipe, align, tokens) if align else None
    plan = schedule(recipe.updates, align)
    samples = TaskSamples(recipe, tokens)
    stream = Stream(seed, plan, samples, pairs, width=WIDTH if packed else None, rank=rank(), world=world())
    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=len(plan),
        per_device_train_batch_size=1,  # an update of the stream is one item
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=round(recipe.warmup * len(plan)),
        weight_decay=0.0,
        bf16=has_bf16(),
        use_cpu=device() == "cpu",
        seed=seed,
        save_steps=recipe.save_every,
        save_total_limit=2,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device() == "cuda",
    )
    reporter = ReportUpdates(arm, seed, report)
    trainer = AlignmentTrainer(
        model=model,
        args=arguments,
        train_dataset=stream,
        callbacks=[reporter],
        align=align,
        layers=layers,
        languages=len(recipe.aligned),
        packed=packed,
        max_batch_tokens=recipe.max_batch_tokens,
    )
    reporter.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    start = time.monotonic()
    with full_disks_named(work):
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))
    manifest = adapter.Manifest(
        name=f"{recipe.name}-{arm}-seed{seed}",
        arm=arm,
        seed=seed,
        recipe=adapter.RecipeRef(name=recipe.name, digest=recipe.digest()),
        base=recipe.base_name,
        base_digest=adapter.base_digest(bases.resolve(recipe.base)),
        task=recipe.task,
        supervised=recipe.supervised,
        aligned=recipe.aligned,
        layer=layers[0] if align else None,
        pairs=align.pairs if align else None,
        updates=recipe.updates,
        tokens=trainer.state.num_input_tokens_seen,
        seconds=round(time.monotonic() - start, 1),
        packages=adapter.package_versions(),
        training=reporter.last_losses,
        overlap=[one.figures() for one in found],
    )
    with full_disks_named(work):
        _publish(model, manifest, work, folder)


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


def halve_linears(model: Any) -> None:
    """Keep the weights of linear layers in bf16, in place, where autocast would cast them at every use.

    Embeddings, norms and the residual stream stay in fp32. A head that shares the embeddings' weight is left.
    """
    import torch

    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            module.to(torch.bfloat16)


def _lora(recipe: Recipe) -> Any:
    import peft

    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.targets,
    )


def _claim(work: Path, recipe: Recipe) -> None:
    """Mark the checkpoint folder with the recipe; refuse one that belongs to another recipe."""
    work.mkdir(parents=True, exist_ok=True)
    mark = work / "recipe.json"
    current = recipe.model_dump(mode="json")
    if mark.is_file():
        begun = json.loads(mark.read_text("utf-8"))
        if Recipe.model_validate(begun).digest() != recipe.digest():
            changed = [key for key in current if begun.get(key) != current[key]]
            raise RecipeError(
                f"{work} was begun with other settings ({', '.join(changed)}). "
                f"Go on with the old recipe, remove that folder, or train elsewhere: output=OTHER"
            )
        return
    partial = mark.with_suffix(".partial")
    partial.write_text(json.dumps(current, indent=1), "utf-8")
    os.replace(partial, mark)


def _last_checkpoint(work: Path) -> str | None:
    """The newest complete checkpoint: Trainer writes its state file last, so one without it was cut short."""
    steps = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for checkpoint in reversed(steps):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
            return str(checkpoint)
        except (OSError, json.JSONDecodeError):
            log.warning("%s is incomplete and not used", checkpoint)
            shutil.rmtree(checkpoint)
    return None


def _publish(model: Any, manifest: adapter.Manifest, work: Path, folder: Path) -> None:
    """Write the adapter whole, then give it its name and drop the checkpoints."""
    finished = work / "adapter"
    model.save_pretrained(finished)
    (finished / adapter.MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", "utf-8")
    os.replace(finished, folder)
    shutil.rmtree(work)
