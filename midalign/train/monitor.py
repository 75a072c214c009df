"""Metrics computed during training: losses, retrieval and generated answers, on held-out data."""

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
from midalign.train.initial_weights import starts_in_base, write_plain_copy
from midalign.train.monitor_measures import (
    HIGHER_IS_BETTER,
    MeasuredValue,
    best_update,
    gradient_cosine,
    measure_direction,
    name_measures,
    pair_retrieval,
    read_measured_values,
)
from midalign.train.progress import TRAINING_LOG, Measures, TrainingLog
from midalign.train.recipe import Evaluation, MonitorSettings
from midalign.train.sentence_pairs import PairSamples
from midalign.train.stream import lay_out_answers
from midalign.train.task_samples import TaskSamples

if TYPE_CHECKING:
    from midalign.train.build import Arm
    from midalign.train.sentence_pairs import Pair

log = logging.getLogger(__name__)


class Monitor(TrainerCallback):
    """Measures every few updates, logs the measures, and stops an arm that no longer improves."""

    def __init__(self, arm: "Arm", work: Path, log: "TrainingLog | None") -> None:
        """Load the held-out pairs and validation samples.

        Raises RecipeError for a `stop_on` that never has a value or has no direction.
        """
        settings = arm.recipe.monitor
        assert settings is not None
        self.arm, self.work, self.log, self.settings = arm, work, log, settings
        recipe = arm.recipe
        if settings.stop_on is not None:
            _check_stop_on(settings)
        # A resumed run continues the history of its log.
        self.history = TrainingLog.measures(work / TRAINING_LOG)
        # The baseline is measured on the same pairs as the aligned arms.
        pairs = PairSamples(recipe, arm.align or recipe.align, arm.tokens)
        self.held_out = dict(zip(recipe.aligned, pairs.held_out, strict=True))
        tasks = TaskSamples(recipe, arm.tokens)
        self.samples = {
            language: tasks.validation(language, settings.samples)
            for language in [*recipe.supervised, *recipe.aligned]
        }

    @property
    def best(self) -> tuple[int, int] | None:
        """The best update by `stop_on` and its age in measurements. None without `stop_on` or any value."""
        stop_on = self.settings.stop_on
        return None if stop_on is None else best_update(self.history, stop_on)

    @property
    def ended(self) -> bool:
        """True if the last `patience` measurements brought no improvement."""
        return self.best is not None and self.best[1] >= self.settings.patience

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the untrained model, unless the run is resumed."""
        if state.global_step == 0:
            self._measure(0, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure after every `every`-th update and after the last."""
        if state.global_step % self.settings.every == 0 or state.global_step == state.max_steps:
            self._measure(state.global_step, control)

    def _measure(self, update: int, control: Any) -> None:
        """Measure, log the measures, keep the weights if they are the best so far, and stop if due."""
        # 1. Restore the random state afterwards, so that monitoring does not change dropout.
        with torch.random.fork_rng():
            measured, others = self.measure_held_out(), self._gradient_cosine()
        if self.settings.generate and update:  # the untrained adapter answers as the base
            measured += self._score_generated(update)
        # 2. Average by language and role, as the leaderboard does.
        recipe = self.arm.recipe
        measures = name_measures(
            measured, record.Roles(supervised=recipe.supervised, aligned=recipe.aligned, unseen=[])
        )
        measures |= others
        if not update and others == {"gradient_cosine": None}:
            log.warning(
                "gradient_cosine is not measured: the gradient of the samples or of the pairs is zero, or "
                "DeepSpeed does not give it"
            )
        # 3. Log in the main process. All processes keep the history, since all must stop together.
        self.history.append((update, measures))
        if self.log is not None:
            self.log.write({"update": update, "measures": measures})
        self.arm.trainer.log_measures(measures)
        # 4. Early stopping. Scores of generated answers are missing at update 0.
        stop_on = self.settings.stop_on
        if stop_on is None or (stop_on not in measures and not update):
            return
        if stop_on not in measures:
            raise RecipeError(f"monitor.stop_on: no measure {stop_on!r}; there are {', '.join(measures)}")
        if self.best is not None and self.best[0] == update:
            self._keep_best()
        if self.ended:
            control.should_training_stop = True

    def measure_held_out(self) -> list[MeasuredValue]:
        """Measure losses, retrieval and bits per character by language."""
        model = self.arm.trainer.accelerator.unwrap_model(self.arm.trainer.model)
        model.eval()
        measured = [
            MeasuredValue("task_loss", language, "", self._task_loss(samples))
            for language, samples in self.samples.items()
            if samples
        ]
        for language, pairs in self.held_out.items():
            if pairs:
                values = self._measure_pairs(model, pairs)
                measured += (MeasuredValue(name, language, "", value) for name, value in values)
        model.train()
        return measured

    def _measure_pairs(self, model: nn.Module, pairs: "Sequence[Pair]") -> Iterator[tuple[str, float]]:
        """Yield names and values of the measures on a language's held-out pairs."""
        tokens = self.arm.tokens
        yield "retrieval", pair_retrieval(model, tokens, pairs, [self.arm.layer])[0]
        sentences = [pair.foreign for pair in pairs]
        ids, characters = predicted_texts(tokens.tokenizer, sentences, tokens.max_tokens)
        yield "bits_per_character", bits_per_character(model, ids, characters, tokens.tokenizer.pad_token_id)
        if self.arm.align is not None:
            yield "alignment_loss", self._alignment_loss(pairs)

    def _task_loss(self, samples: Sequence[Any]) -> float:
        """Return the mean cross entropy over the labels of a language's samples."""
        trainer = self.arm.trainer
        total = count = 0.0
        for start in range(0, len(samples), 16):
            of_batch = samples[start : start + 16]
            stream = self.arm.stream
            batch = lay_out_answers({"task": of_batch}, [1.0] * len(of_batch), stream.pad, stream.width)
            total += trainer.validation_loss(batch)
            count += float((batch["labels"] != IGNORED).sum())
        return total / count

    def _alignment_loss(self, pairs: "Sequence[Pair]") -> float:
        """Return the mean loss over a language's pairs, in batches of the training size."""
        total, size = 0.0, (self.arm.align or self.arm.recipe.align).pairs_per_update
        for start in range(0, len(pairs), size):
            of_batch = pairs[start : start + size]
            batch = self.arm.stream.contrastive(of_batch, 1.0)
            total += self.arm.trainer.alignment_loss(batch) * len(of_batch)
        return total / len(pairs)

    def _gradient_cosine(self) -> Measures:
        """Return the cosine between the gradients of samples and pairs in the first update that has both.

        Without such an update (`align.alternate: update`), the first update of each kind is taken. The value
        is None if a gradient is zero, an update is missing, or DeepSpeed trains.
        """
        if self.arm.align is None:
            return {}
        trainer, stream = self.arm.trainer, self.arm.stream
        # DeepSpeed's backward pass includes the optimizer step.
        if trainer.accelerator.distributed_type == "DEEPSPEED":
            return {"gradient_cosine": None}
        kinds = [{step.kind for step in steps} for steps in stream.plan]
        both = [update for update, of_update in enumerate(kinds) if len(of_update) == 2]
        of_samples, of_pairs = (
            both or [update for update, of_update in enumerate(kinds) if kind in of_update]
            for kind in ("task", "pairs")
        )
        if not of_samples or not of_pairs:
            return {"gradient_cosine": None}
        samples = {name: value for name, value in stream[of_samples[0]].items() if name != "pairs"}
        sample_gradients = trainer.gradients_of({**samples, "pairs": []})
        pair_gradients = trainer.gradients_of({"pairs": stream[of_pairs[0]]["pairs"]})
        return {"gradient_cosine": gradient_cosine(sample_gradients, pair_gradients)}

    def _score_generated(self, update: int) -> list[MeasuredValue]:
        """Score generated answers of the current adapter with the task's metrics, in a fresh process."""
        results, adapter = self.work / "monitor", self.work / f"update-{update}"
        trainer, saved = self.arm.trainer, self.work / "measured"
        trainer.save_model(str(saved))
        measured: list[list[MeasuredValue]] = [[]]
        if trainer.is_world_process_zero():
            # Remove what an earlier attempt at this update left.
            shutil.rmtree(adapter, ignore_errors=True)
            shutil.rmtree(results, ignore_errors=True)
            # Save the adapter as it would be published, for an unmodified base.
            if starts_in_base(trainer.model):
                write_plain_copy(saved, adapter, trainer.initial_by_name())
            else:
                os.replace(saved, adapter)
            recipe = self.arm.recipe
            trained = [*recipe.supervised, *recipe.aligned]
            languages = list(dict.fromkeys(harness.task_code(recipe.task, language) for language in trained))
            limit = self.settings.generate
            evaluation = Evaluation(
                base=False, languages=languages, split="validation", limit=limit, engine="hf"
            )
            evaluated = recipe.model_copy(update={"evaluation": evaluation})
            command = evaluation_command(evaluated, [adapter], results)
            command += ["--supervised", ",".join(recipe.supervised), "--aligned", ",".join(recipe.aligned)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the evaluation at update {update} failed:\n{done.stderr[-2000:]}")
            measured = [read_measured_values(results, adapter.name)]
            shutil.rmtree(adapter)
        if world_size() > 1:
            dist.broadcast_object_list(measured)
        return measured[0]

    def _keep_best(self) -> None:
        """Save the current adapter as the best one so far."""
        fresh, kept = self.work / "best.partial", self.work / "best"
        self.arm.trainer.save_model(str(fresh))
        if self.arm.trainer.is_world_process_zero():
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(fresh, kept)


def _check_stop_on(settings: MonitorSettings) -> None:
    """Raise RecipeError for a `stop_on` that never has a value or has no direction."""
    assert settings.stop_on is not None
    measure_direction(settings.stop_on)
    generated = settings.stop_on.partition("/")[0] not in HIGHER_IS_BETTER
    if generated and settings.generate is None:
        raise RecipeError(
            f"monitor.stop_on: {settings.stop_on} is a score of generated answers: set monitor.generate=50"
        )
