"""What a model is worth while it trains: losses, retrieval and text by language, on data it does not see."""

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback

from midalign import harness, record
from midalign.align.head import IGNORED
from midalign.align.likelihood import bits_per_character, predicted_texts
from midalign.errors import RecipeError
from midalign.train.distributed import world_size
from midalign.train.evaluation_command import evaluation_command
from midalign.train.monitor_measures import (
    HIGHER_IS_BETTER,
    Measurement,
    best_update,
    gradient_cosine,
    measure_direction,
    name_measures,
    pair_retrieval,
    read_measurements,
)
from midalign.train.plain import plain_copy
from midalign.train.progress import TRAINING_LOG, Measures, TrainingLog
from midalign.train.recipe import Evaluation
from midalign.train.recipe import MonitorSettings as Settings
from midalign.train.sentence_pairs import PairSamples
from midalign.train.stream import lay_out_answers
from midalign.train.task_samples import TaskSamples
from midalign.train.trainer import starts_in_base

if TYPE_CHECKING:
    from midalign.train.build import Arm
    from midalign.train.sentence_pairs import Pair

log = logging.getLogger(__name__)


class Monitor(TrainerCallback):
    """Measures every so many updates, writes to the log, and ends an arm that no longer gets better."""

    def __init__(self, arm: "Arm", work: Path, log: "TrainingLog | None") -> None:
        """Prepare what is measured. Raises RecipeError for a `stop_on` that no update can be best by."""
        settings = arm.recipe.monitor
        assert settings is not None
        self.arm, self.work, self.log, self.settings = arm, work, log, settings
        recipe = arm.recipe
        if settings.stop_on is not None:
            _check_stop_on(settings)
        self.history = TrainingLog.measures(work / TRAINING_LOG)
        pairs = PairSamples(recipe, arm.align or recipe.align, arm.tokens)
        self.held_out = dict(zip(recipe.aligned, pairs.held_out, strict=True))
        tasks = TaskSamples(recipe, arm.tokens)
        self.samples = {
            language: tasks.validation(language, settings.samples)
            for language in [*recipe.supervised, *recipe.aligned]
        }

    @property
    def best(self) -> tuple[int, int] | None:
        """`best_update` by `stop_on`; None without it, or where it has had no value yet."""
        wanted = self.settings.stop_on
        return None if wanted is None else best_update(self.history, wanted)

    @property
    def ended(self) -> bool:
        """Whether `patience` measurements have passed without a better one."""
        return self.best is not None and self.best[1] >= self.settings.patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Where training stands at the beginning."""
        if state.global_step == 0:
            self._measure(0, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure after every `every`-th update and the last."""
        if state.global_step % self.settings.every == 0 or state.global_step == state.max_steps:
            self._measure(state.global_step, control)

    def _measure(self, update: int, control: Any) -> None:
        with torch.random.fork_rng():  # an arm that is watched drops out what it would have
            figures, others = self.figures(), self._gradient_cosine()
        if self.settings.generate and update:  # at 0 the adapter does nothing
            figures += self._generated(update)
        recipe = self.arm.recipe
        measures = name_measures(
            figures, record.Roles(supervised=recipe.supervised, aligned=recipe.aligned, unseen=[])
        )
        measures |= others
        if not update and others == {"gradient_cosine": None}:
            log.warning(
                "gradient_cosine is not measured: the gradient of the samples or of the pairs is zero, or "
                "DeepSpeed does not give it"
            )
        self.history.append((update, measures))
        if self.log is not None:
            self.log.write({"update": update, "measures": measures})
        self.arm.trainer.log_measures(measures)
        wanted = self.settings.stop_on
        if wanted is None or (wanted not in measures and not update):
            return
        if wanted not in measures:
            raise RecipeError(f"monitor.stop_on: no measure {wanted!r}; there are {', '.join(measures)}")
        if self.best is not None and self.best[0] == update:
            self._keep()
        if self.ended:
            control.should_training_stop = True

    def figures(self) -> list[Measurement]:
        """Return losses, retrieval and bits per character by language."""
        model = self.arm.trainer.accelerator.unwrap_model(self.arm.trainer.model)
        model.eval()
        found = [
            Measurement("task_loss", language, "", self._task_loss(samples))
            for language, samples in self.samples.items()
            if samples
        ]
        for language, pairs in self.held_out.items():
            if pairs:
                found += (
                    Measurement(name, language, "", value) for name, value in self._of_pairs(model, pairs)
                )
        model.train()
        return found

    def _of_pairs(self, model: nn.Module, pairs: "Sequence[Pair]") -> Iterator[tuple[str, float]]:
        """Yield the measures of a language's held-out pairs, by name."""
        tokens = self.arm.tokens
        yield "retrieval", pair_retrieval(model, tokens, pairs, [self.arm.layer])[0]
        sentences = [pair.foreign for pair in pairs]
        ids, characters = predicted_texts(tokens.tokenizer, sentences, tokens.max_tokens)
        yield "bits_per_character", bits_per_character(model, ids, characters, tokens.tokenizer.pad_token_id)
        if self.arm.align is not None:
            yield "alignment_loss", self._alignment_loss(pairs)

    def _task_loss(self, samples: Sequence[Any]) -> float:
        """Mean over the labels of a language."""
        trainer = self.arm.trainer
        total = count = 0.0
        for start in range(0, len(samples), 16):
            some = samples[start : start + 16]
            stream = self.arm.stream
            batch = lay_out_answers({"task": some}, [1.0] * len(some), stream.pad, stream.width)
            total += trainer.validation_loss(batch)
            count += float((batch["labels"] != IGNORED).sum())
        return total / count

    def _alignment_loss(self, pairs: "Sequence[Pair]") -> float:
        """Mean over a language's pairs, in batches as large as those of training."""
        total, size = 0.0, (self.arm.align or self.arm.recipe.align).pairs_per_update
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            total += self.arm.trainer.alignment_loss(self.arm.stream.contrastive(some, 1.0)) * len(some)
        return total / len(pairs)

    def _gradient_cosine(self) -> Measures:
        """Return the cosine between the gradients of samples and of pairs, of the first update that has both.

        Where none has (`align.alternate: update`), of the first update of samples and the first of pairs.
        None where either gradient is zero, the arm has no such update, or DeepSpeed trains.
        """
        if self.arm.align is None:
            return {}
        trainer, stream = self.arm.trainer, self.arm.stream
        if trainer.accelerator.distributed_type == "DEEPSPEED":  # each of its backward passes ends in a step
            return {"gradient_cosine": None}
        kinds = [{step.kind for step in steps} for steps in stream.plan]
        both = [update for update, found in enumerate(kinds) if len(found) == 2]
        of_samples, of_pairs = (
            both or [update for update, found in enumerate(kinds) if kind in found]
            for kind in ("task", "pairs")
        )
        if not of_samples or not of_pairs:
            return {"gradient_cosine": None}
        samples = {name: value for name, value in stream[of_samples[0]].items() if name != "pairs"}
        one = trainer.gradients_of({**samples, "pairs": []})
        other = trainer.gradients_of({"pairs": stream[of_pairs[0]]["pairs"]})
        return {"gradient_cosine": gradient_cosine(one, other)}

    def _generated(self, update: int) -> list[Measurement]:
        """Return the task's own metrics, by a fresh process that answers with the adapter as it is now."""
        results, adapter = self.work / "monitor", self.work / f"update-{update}"
        trainer, saved = self.arm.trainer, self.work / "measured"
        trainer.save_model(str(saved))
        found: list[list[Measurement]] = [[]]
        if trainer.is_world_process_zero():
            # As it would be published: the evaluation applies it to the untouched base.
            # A run that was killed after this measurement left both.
            shutil.rmtree(adapter, ignore_errors=True)
            shutil.rmtree(results, ignore_errors=True)
            if starts_in_base(trainer.model):
                plain_copy(saved, adapter, trainer.initial_by_name())
            else:
                os.replace(saved, adapter)
            recipe = self.arm.recipe
            trained = [*recipe.supervised, *recipe.aligned]
            languages = list(dict.fromkeys(harness.task_code(recipe.task, language) for language in trained))
            evaluation = Evaluation(
                base=False,
                languages=languages,
                split="validation",
                limit=self.settings.generate,
                engine="hf",
            )
            evaluated = recipe.model_copy(update={"evaluation": evaluation})
            command = evaluation_command(evaluated, [adapter], results)
            command += ["--supervised", ",".join(recipe.supervised), "--aligned", ",".join(recipe.aligned)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the evaluation at update {update} failed:\n{done.stderr[-2000:]}")
            found = [read_measurements(results, adapter.name)]
            shutil.rmtree(adapter)
        if world_size() > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def _keep(self) -> None:
        """The adapter as it is now, in place of an earlier one that was worse."""
        fresh, kept = self.work / "best.partial", self.work / "best"
        self.arm.trainer.save_model(str(fresh))
        if self.arm.trainer.is_world_process_zero():
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(fresh, kept)


def _check_stop_on(settings: Settings) -> None:
    """Raise RecipeError for a `stop_on` that will never have a value, or has no direction."""
    assert settings.stop_on is not None
    measure_direction(settings.stop_on)
    generated = settings.stop_on.partition("/")[0] not in HIGHER_IS_BETTER
    if generated and settings.generate is None:
        raise RecipeError(
            f"monitor.stop_on: {settings.stop_on} is a score of generated answers: set monitor.generate=50"
        )
