"""The baseline's loss curve against trl's SFTTrainer: the same samples in the same order, the same settings.

    pip install --no-deps --target FOLDER trl
    PYTHONPATH=FOLDER python scripts/benchmarks/loss_curve.py [BASE] [RECIPE] [UPDATES]

trl pads here and does not pack: its packed rows would put other samples into an update.
"""

import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from midalign.train.build import Arm, build_arm
from midalign.train.recipe import Recipe, load_recipe


def main(base: str = "mini", recipe: str = "mini", updates: str = "60") -> None:
    """Train twice and print both curves."""
    settings = load_recipe(recipe, [f"base={base}", f"updates={updates}", "save_every=100000"])
    ours, theirs = of_midalign(fresh(settings)), of_trl(fresh(settings))
    print(f"{recipe} on {Path(base).name}, task alone, {updates} updates")
    print(f"{'update':>8}{'midalign':>10}{'trl':>10}")
    for update in sorted({0, 1, 2, 4, *range(9, len(ours), max(len(ours) // 8, 1)), len(ours) - 1}):
        print(f"{update + 1:8}{ours[update]:10.4f}{theirs[update]:10.4f}")
    apart = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    moved = [abs(one - other) for one, other in pairwise(ours)]
    print(
        f"apart by {sum(apart) / len(apart):.4f} in the mean and {max(apart):.4f} at most; "
        f"from one update to the next the loss changes by {sum(moved) / len(moved):.4f} in the mean"
    )


def fresh(settings: Recipe) -> Arm:
    """The baseline before its first update, with the adapter that the seed gives."""
    return build_arm(settings, "baseline", 1, Path(tempfile.mkdtemp()))


def of_midalign(arm: Arm) -> list[float]:
    """The loss of every update, by the trainer as it is."""
    from transformers import TrainerCallback

    found = []

    class Note(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: object, **__: object) -> None:
            found.append(arm.trainer.take_losses()["task"])

    arm.trainer.add_callback(Note())
    arm.trainer.train()
    return found


def of_trl(arm: Arm) -> list[float]:
    """The same by SFTTrainer."""
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import SFTConfig, SFTTrainer

    recipe = arm.recipe
    arm.stream.prepare()
    samples = [s for update in range(recipe.updates) for s in arm.stream.task.samples(1, update)]

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    trainer = InOrder(
        model=arm.trainer.model,
        args=SFTConfig(
            tempfile.mkdtemp(),
            max_steps=recipe.updates,
            per_device_train_batch_size=recipe.samples_per_update,
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=False,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.scheduler,
            warmup_steps=round(recipe.warmup * recipe.updates),
            weight_decay=0.0,
            bf16=arm.trainer.args.bf16,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [s.prompt + s.target for s in samples],
                "completion_mask": [[0] * len(s.prompt) + [1] * len(s.target) for s in samples],
            }
        ),
        processing_class=arm.tokens.tokenizer,
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    main(*sys.argv[1:])
