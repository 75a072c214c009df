"""What a model is worth while it trains: losses, retrieval and text by language, on data it does not see."""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback

from midalign import harness, metrics, record
from midalign.align.head import IGNORED
from midalign.align.likelihood import bits_per_character, predicted_texts
from midalign.align.retrieval import pair_accuracy, translation_matrix
from midalign.align.trunk import pooled_sentences
from midalign.errors import RecipeError, nearest
from midalign.files import write_atomically
from midalign.train.distributed import world
from midalign.train.plain import plain_copy
from midalign.train.recipe import Monitor as Settings
from midalign.train.run import LOG
from midalign.train.stream import PairSamples, TaskSamples, answers
from midalign.train.trainer import starts_in_base

if TYPE_CHECKING:
    from midalign.train.build import Arm
    from midalign.train.stream import Pair, Tokens

log = logging.getLogger(__name__)

Measures = dict[str, float | None]
"""By name, such as `slot_f1/de`, `slot_f1/aligned` and `gradient_cosine`; None where there is no case."""

HIGHER_IS_BETTER: dict[str, bool | None] = {
    "task_loss": False,
    "alignment_loss": False,
    "bits_per_character": False,
    "retrieval": True,
    "gradient_cosine": None,
}
"""Direction of what is measured without generating, None where neither end is better."""


class Figure(NamedTuple):
    """One measured value."""

    measure: str
    language: str
    """Or a direction, such as `en-de`."""
    task: str
    """The measured task's name; empty for what is measured once per language."""
    value: float | None


def pair_retrieval(
    model: nn.Module, tokens: "Tokens", pairs: "Sequence[Pair]", layers: Sequence[int]
) -> list[float]:
    """Return the share of sentences that find a translation among those of `pairs`, after each layer.

    It is measured as in `midalign eval`: centred means, cosine, both directions. Every translation that some
    pair has counts as right.
    """
    sides = []
    for side in ([pair.foreign for pair in pairs], [pair.english for pair in pairs]):
        ids = [tokens.sentence(sentence) for sentence in side]
        sides.append(pooled_sentences(model, ids, layers, tokens.tokenizer.pad_token_id, tokens.sink))
    right = translation_matrix([(pair.foreign, pair.english) for pair in pairs])
    return [pair_accuracy(foreign, english, right) for foreign, english in zip(*sides, strict=True)]


def cosine(one: Sequence[torch.Tensor | None], other: Sequence[torch.Tensor | None]) -> float | None:
    """Return the cosine of two gradients over the parameters that both change, None if there are none.

    Parameters that one loss does not reach, as those above the aligned layer, have no gradient, or zeros
    where processes have added theirs up.
    """
    pairs = [
        (a.double(), b.double())
        for a, b in zip(one, other, strict=True)
        if a is not None and b is not None and a.any() and b.any()
    ]
    product = sum(float((a * b).sum()) for a, b in pairs)
    norms = [math.sqrt(sum(float(pair[side].square().sum()) for pair in pairs)) for side in (0, 1)]
    return product / (norms[0] * norms[1]) if pairs else None


class Monitor(TrainerCallback):
    """Measures every so many updates, writes to the log, and ends an arm that no longer gets better."""

    def __init__(self, arm: "Arm", work: Path, log: "Log | None") -> None:
        """Prepare what is measured. Raises RecipeError for a `stop_on` that no update can be best by."""
        settings = arm.recipe.monitor
        assert settings is not None
        self.arm, self.work, self.log, self.settings = arm, work, log, settings
        recipe = arm.recipe
        if settings.stop_on is not None:
            _check_stop_on(settings)
        self.history = Log.measures(work / LOG)
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
        measures = named(
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

    def figures(self) -> list[Figure]:
        """Return losses, retrieval and bits per character by language."""
        model = self.arm.trainer.accelerator.unwrap_model(self.arm.trainer.model)
        model.eval()
        found = [
            Figure("task_loss", language, "", self._task_loss(samples))
            for language, samples in self.samples.items()
            if samples
        ]
        for language, pairs in self.held_out.items():
            if pairs:
                found += (Figure(name, language, "", value) for name, value in self._of_pairs(model, pairs))
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
            batch = answers({"task": some}, [1.0] * len(some), stream.pad, stream.width)
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
        return {"gradient_cosine": cosine(one, other)}

    def _generated(self, update: int) -> list[Figure]:
        """Return the task's own metrics, by a fresh process that answers with the adapter as it is now."""
        results, adapter = self.work / "monitor", self.work / f"update-{update}"
        trainer, saved = self.arm.trainer, self.work / "measured"
        trainer.save_model(str(saved))
        found: list[list[Figure]] = [[]]
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
            command = [sys.executable, "-m", "midalign", "eval", "--base", recipe.base]
            tasks = harness.task_names(recipe.task, languages)
            command += ["--tasks", ",".join(tasks), "--split", "validation"]
            command += ["--limit", str(self.settings.generate), "--output", str(results)]
            command += ["--adapter", str(adapter), "--adapters-only", "--engine", "hf"]
            command += ["--supervised", ",".join(recipe.supervised), "--aligned", ",".join(recipe.aligned)]
            command += recipe.prompt_options
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the evaluation at update {update} failed:\n{done.stderr[-2000:]}")
            found = [scores(results, adapter.name)]
            shutil.rmtree(adapter)
        if world() > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def _keep(self) -> None:
        """The adapter as it is now, in place of an earlier one that was worse."""
        fresh, kept = self.work / "best.partial", self.work / "best"
        self.arm.trainer.save_model(str(fresh))
        if self.arm.trainer.is_world_process_zero():
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(fresh, kept)


def direction_of(measure: str) -> bool:
    """Return the direction of a measure, such as `off_target/aligned`.

    Raises RecipeError for measures that do not exist, and for those of which neither end is better.
    """
    name = measure.partition("/")[0]
    known = {**HIGHER_IS_BETTER, **metrics.metric_directions()}
    if name not in known:
        raise RecipeError(
            f"monitor.stop_on: no measure {measure!r}.{nearest(name, known)} There are {', '.join(known)}"
        )
    direction = known[name]
    if direction is None:
        raise RecipeError(
            f"monitor.stop_on: {name} has no better end, so no update is best by it. "
            f"Choose another measure, such as task_loss/supervised"
        )
    return direction


def _check_stop_on(settings: Settings) -> None:
    """Raise RecipeError for a `stop_on` that will never have a value, or has no direction."""
    assert settings.stop_on is not None
    direction_of(settings.stop_on)
    generated = settings.stop_on.partition("/")[0] not in HIGHER_IS_BETTER
    if generated and settings.generate is None:
        raise RecipeError(
            f"monitor.stop_on: {settings.stop_on} is a score of generated answers: set monitor.generate=50"
        )


def best_update(
    measures: Sequence[tuple[int, Mapping[str, float | None]]], name: str
) -> tuple[int, int] | None:
    """Return the update that was best by a measure, and how many measurements have passed since.

    Measurements without a value are left out; None if all are.
    """
    sign = 1 if direction_of(name) else -1
    values = [(update, sign * value) for update, found in measures if (value := found.get(name)) is not None]
    if not values:
        return None
    best = max(range(len(values)), key=lambda i: values[i][1])
    return values[best][0], len(values) - 1 - best


def named(figures: Sequence[Figure], roles: record.Roles) -> Measures:
    """Return figures by `<measure>/<language>` and `<measure>/<role>`.

    A role's value is the mean over its tasks, as on the board. A language's is the mean over its tasks, such
    as two treebanks, each of which is then there as `<measure>/<task>` too. A mean is None if a part is.
    """
    parts: dict[str, list[float | None]] = {}
    for figure in figures:
        for group in (figure.language, roles.of(figure.language)):
            parts.setdefault(f"{figure.measure}/{group}", []).append(figure.value)
    found = {
        f"{figure.measure}/{figure.task}": figure.value
        for figure in figures
        if len(parts[f"{figure.measure}/{figure.language}"]) > 1
    }
    return found | {name: _mean(values) for name, values in parts.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def scores(results: Path, adapter: str) -> list[Figure]:
    """Return every metric of every task in an adapter's record."""
    records = [json.loads(path.read_text("utf-8")) for path in results.glob(f"*{record.SUFFIX}")]
    (own,) = [one for one in records if one["adapter"] and one["adapter"]["name"] == adapter]
    return [
        Figure(metric, task["language"], name, score["value"])
        for name, task in own["tasks"].items()
        for metric, score in task["metrics"].items()
    ]


class Log:
    """JSON lines, one an update and one a measurement; what a resumed run does again is dropped first."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        """Go on at `path` after the update `resumed_at`; 0 begins anew."""
        self.path = path
        kept = [entry for entry in _entries(path) if 0 < resumed_at >= entry["update"]]
        write_atomically(path, "".join(f"{json.dumps(entry)}\n" for entry in kept).encode())

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @staticmethod
    def measures(path: Path) -> list[tuple[int, Measures]]:
        """(update, measures) of every measurement so far."""
        return [(entry["update"], entry["measures"]) for entry in _entries(path) if "measures" in entry]

    @staticmethod
    def training(path: Path, update: int) -> tuple[dict[str, float], int]:
        """Return the last losses by name up to an update, and the tokens seen until then."""
        losses, tokens = dict[str, float](), 0
        for entry in _entries(path):
            if "losses" in entry and entry["update"] <= update:
                losses |= entry["losses"]  # an update of pairs alone has no task loss
                tokens = entry["tokens"]
        return losses, tokens


def _entries(path: Path) -> list[dict[str, Any]]:
    """Return a log's whole lines: the last one may have been cut when its process was killed."""
    found = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
