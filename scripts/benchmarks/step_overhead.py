"""What a step of midalign-train takes beyond the computation of its losses and gradients.

    python scripts/benchmarks/step_overhead.py [BASE] [RECIPE] [ARM] [STEPS]

In one process, in turn: a step as the run takes it (data from its thread, transformers' loop, log,
losses handed to the screen), and the same update again on tensors made before: forward, backward, clipping,
optimizer and nothing else. The run's time is that of the whole loop, whatever it is spent on.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import torch
from transformers import TrainerCallback

from midalign.train.build import build_arm
from midalign.train.callbacks import ReportUpdates
from midalign.train.progress import TrainingLog
from midalign.train.recipe import load_recipe

WARM = 4
"""Steps before the first that counts: kernels are compiled."""


def main(base: str = "mini", recipe: str = "mini", arm: str = "aligned", steps: str = "30") -> None:
    """Measure and print."""
    count = WARM + int(steps)
    overrides = [f"base={base}", f"updates={count}", "save_every=100000", "evaluate=false"]
    settings = load_recipe(recipe, overrides)
    folder = Path(tempfile.mkdtemp())
    ready = build_arm(settings, arm, 1, folder)
    trainer = ready.trainer
    made = [ready.stream[update] for update in range(count)]
    whole, bare = [], []

    class InTurn(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: object, **__: object) -> None:
            self.begun = time.perf_counter()

        def on_step_end(self, args: object, state: object, control: object, **_: object) -> None:
            whole.append(time.perf_counter() - self.begun)
            start = time.perf_counter()
            trainer.training_step(trainer.model_wrapped, made[len(bare)])
            torch.nn.utils.clip_grad_norm_(trainer.trained_parameters(), 1.0)
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            bare.append(time.perf_counter() - start)
            trainer.losses.clear()
            self.begun = time.perf_counter()

    trainer.add_callback(
        ReportUpdates(trainer, arm, 1, lambda progress: None, TrainingLog(folder / "log.jsonl", 0))
    )
    trainer.add_callback(InTurn())
    trainer.train()
    ratios = sorted(a / b for a, b in zip(whole[WARM:], bare[WARM:], strict=True))
    total = sum(whole[WARM:]) / sum(bare[WARM:])
    low, middle, high = ratios[len(ratios) // 10], statistics.median(ratios), ratios[-len(ratios) // 10]
    print(
        f"{recipe} on {Path(base).name}, {arm}, {steps} steps, "
        f"{statistics.median(whole[WARM:]):.3f} s a step, "
        f"{100 * (middle - 1):+.1f}% of its computation (median of the pairs; four of five "
        f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f}%; in all {100 * (total - 1):+.1f}%)"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
