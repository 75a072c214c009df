"""What a model is worth while it trains: losses, retrieval and text by language, on data it does not see."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import TrainerCallback

from midalign import record
from midalign.align.head import IGNORED
from midalign.align.likelihood import bits_per_character
from midalign.align.retrieval import accuracy
from midalign.align.trunk import pooled_sentences
from midalign.errors import RecipeError
from midalign.languages import role_of
from midalign.train.distributed import world
from midalign.train.run import LOG
from midalign.train.stream import PairSamples, TaskSamples, answers, task_code, task_names

if TYPE_CHECKING:
    from midalign.train.build import Arm
    from midalign.train.stream import Pair, Tokens

Measures = dict[str, float]
"""By name: `<measure>/<language>` and `<measure>/<role>`, the mean over the role's languages."""

LOWER_IS_BETTER = ("task_loss", "alignment_loss", "bits_per_character")


def pair_retrieval(
    model: nn.Module, tokens: "Tokens", pairs: "Sequence[Pair]", layers: Sequence[int]
) -> list[float]:
    """After each of some layers, the share of sentences that find their translation among those of `pairs`.

    Means without BOS, centred, cosine, both directions: as `midalign eval` measures it.
    """
    sides = []
    for side in ([pair.foreign for pair in pairs], [pair.english for pair in pairs]):
        ids = [tokens.sentence(sentence) for sentence in side]
        sides.append(pooled_sentences(model, ids, layers, tokens.tokenizer.pad_token_id, tokens.sink))
    return [accuracy(foreign, english) for foreign, english in zip(*sides, strict=True)]


def cosine(one: Sequence[torch.Tensor | None], other: Sequence[torch.Tensor | None]) -> float:
    """Between two gradients of the same parameters, over those that have both; 0 where nothing does."""
    pairs = [
        (a.double(), b.double()) for a, b in zip(one, other, strict=True) if a is not None and b is not None
    ]
    product = sum(float((a * b).sum()) for a, b in pairs)
    norms = [math.sqrt(sum(float(pair[side].square().sum()) for pair in pairs)) for side in (0, 1)]
    return product / (norms[0] * norms[1]) if all(norms) else 0.0


class Monitor(TrainerCallback):
    """Measures every so many updates, writes to the log, and ends an arm that no longer gets better."""

    def __init__(self, arm: "Arm", work: Path, log: "Log | None") -> None:
        settings = arm.recipe.monitor
        assert settings is not None
        self.arm, self.work, self.log, self.settings = arm, work, log, settings
        recipe, align = arm.recipe, arm.recipe.align
        self.history = Log.measures(work / LOG)
        self.held_out = dict(
            zip(recipe.aligned, PairSamples(recipe, align, arm.tokens).held_out, strict=True)
        )
        tasks = TaskSamples(recipe, arm.tokens)
        self.samples = {
            language: tasks.validation(language, settings.samples)
            for language in [*recipe.supervised, *recipe.aligned]
        }

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
            measures = self.measures()
        if self.settings.generate and update:  # at 0 the adapter does nothing
            measures |= self._generated(update)
        measures |= self._of_roles(measures)
        self.history.append((update, measures))
        if self.log is not None:
            self.log.write({"update": update, "measures": measures})
        self.arm.trainer.log_measures(measures)
        wanted = self.settings.stop_on
        if wanted is None or (wanted not in measures and not update):
            return
        if wanted not in measures:
            raise RecipeError(f"monitor.stop_on: no measure {wanted!r}; there are {', '.join(measures)}")
        best, since = best_update(self.history, wanted)
        if best == update:
            self._keep()
        if since >= self.settings.patience:
            control.should_training_stop = True

    def measures(self) -> Measures:
        """Losses, retrieval, bits per character by language, and the cosine of both gradients."""
        model = self.arm.trainer.accelerator.unwrap_model(self.arm.trainer.model)
        model.eval()
        found: Measures = {}
        for language, samples in ((code, own) for code, own in self.samples.items() if own):
            found[f"task_loss/{language}"] = self._task_loss(samples)
        pad = self.arm.tokens.tokenizer.pad_token_id
        for language, pairs in self.held_out.items():
            if pairs:
                (found[f"retrieval/{language}"],) = pair_retrieval(
                    model, self.arm.tokens, pairs, self.arm.layers[-1:]
                )
                ids = [self.arm.tokens.sentence(pair.foreign) for pair in pairs]
                characters = sum(len(pair.foreign) for pair in pairs)
                found[f"bits_per_character/{language}"] = bits_per_character(model, ids, characters, pad)
                if self.arm.align is not None:
                    found[f"alignment_loss/{language}"] = self._alignment_loss(pairs)
        model.train()
        if self.arm.align is not None:
            found["gradient_cosine"] = self._gradient_cosine()
        return found

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
        total, size = 0.0, self.arm.recipe.align.pairs_per_update
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            total += self.arm.trainer.alignment_loss(self.arm.stream.contrastive(some, 1.0)) * len(some)
        return total / len(pairs)

    def _gradient_cosine(self) -> float:
        """Between the gradients of the samples and of the pairs of the first update that has both."""
        trainer, stream = self.arm.trainer, self.arm.stream
        joint = (u for u, steps in enumerate(stream.plan) if len({step.kind for step in steps}) == 2)
        update = stream[next(joint, 0)]
        one = trainer.gradients_of({**update, "pairs": []})
        other = trainer.gradients_of({"pairs": update["pairs"]})
        return cosine(one, other)

    def _generated(self, update: int) -> Measures:
        """The task's own metrics, by a fresh process that answers with the adapter as it is now."""
        results, adapter = self.work / "monitor", self.work / f"update-{update}"
        trainer = self.arm.trainer
        trainer.save_model(str(adapter))
        found: list[Measures] = [{}]
        if trainer.is_world_process_zero():
            recipe = self.arm.recipe
            trained = [*recipe.supervised, *recipe.aligned]
            languages = list(dict.fromkeys(task_code(recipe.task, language) for language in trained))
            command = [sys.executable, "-m", "midalign", "eval", "--base", recipe.base]
            command += ["--tasks", ",".join(task_names(recipe.task, languages)), "--split", "validation"]
            command += ["--limit", str(self.settings.generate), "--output", str(results)]
            command += ["--adapter", str(adapter), "--adapters-only", "--engine", "hf"]
            command += ["--supervised", ",".join(recipe.supervised), "--aligned", ",".join(recipe.aligned)]
            command += ["--apply-chat-template"] if recipe.chat_template else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"the evaluation at update {update} failed:\n{done.stderr[-2000:]}")
            found = [scores(results, adapter.name)]
            shutil.rmtree(adapter)
        if world() > 1:
            dist.broadcast_object_list(found)
        return found[0]

    def _of_roles(self, measures: Mapping[str, float]) -> Measures:
        return means_by_role(measures, self.arm.recipe.supervised, self.arm.recipe.aligned)

    def _keep(self) -> None:
        """The adapter as it is now, in place of an earlier one that was worse."""
        fresh, kept = self.work / "best.partial", self.work / "best"
        self.arm.trainer.save_model(str(fresh))
        if self.arm.trainer.is_world_process_zero():
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(fresh, kept)


def means_by_role(
    measures: Mapping[str, float], supervised: Sequence[str], aligned: Sequence[str]
) -> Measures:
    """Return `<measure>/<role>` of `<measure>/<language>`, for the roles that languages were trained in."""
    values: dict[str, list[float]] = {}
    for key, value in measures.items():
        name, _, code = key.partition("/")
        if code and (role := role_of(code, supervised, aligned)) != "unseen":
            values.setdefault(f"{name}/{role}", []).append(value)
    return {name: sum(own) / len(own) for name, own in values.items()}


def best_update(measures: Sequence[tuple[int, Mapping[str, float]]], name: str) -> tuple[int, int]:
    """The update that was best by a measure, and how many measurements have passed since."""
    sign = -1 if name.partition("/")[0] in LOWER_IS_BETTER else 1
    values = [(update, sign * found[name]) for update, found in measures if name in found]
    best = max(range(len(values)), key=lambda i: values[i][1])
    return values[best][0], len(values) - 1 - best


def scores(results: Path, adapter: str) -> Measures:
    """`<metric>/<language>` out of an adapter's record."""
    records = [json.loads(path.read_text("utf-8")) for path in results.glob(f"*{record.SUFFIX}")]
    (own,) = [one for one in records if one["adapter"] and one["adapter"]["name"] == adapter]
    tasks = own["tasks"].values()
    return {
        f"{name}/{task['language']}": score["value"]
        for task in tasks
        for name, score in task["metrics"].items()
        if score["value"] is not None
    }


class Log:
    """JSON lines, one an update and one a measurement; what a resumed run does again is dropped first."""

    def __init__(self, path: Path, resumed_at: int) -> None:
        """Go on at `path` after the update `resumed_at`."""
        self.path = path
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["update"] <= resumed_at]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept), "utf-8")
        os.replace(partial, path)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    @staticmethod
    def measures(path: Path) -> list[tuple[int, Measures]]:
        """(update, measures) of every measurement so far."""
        entries = map(json.loads, path.read_text("utf-8").splitlines())
        return [(entry["update"], entry["measures"]) for entry in entries if "measures" in entry]
