"""What Trainer tells while it runs."""

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from midalign.train.run import Progress, Report

if TYPE_CHECKING:
    from midalign.train.trainer import AlignmentTrainer


class ReportUpdates(TrainerCallback):
    """Hands the true means of both losses and the speed to the caller after every update."""

    def __init__(self, trainer: "AlignmentTrainer", arm: str, seed: int, report: Report) -> None:
        self.trainer, self.arm, self.seed, self.report = trainer, arm, seed, report
        self.last_losses: dict[str, float] = {}
        self.began, self.tokens = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock after set-up, and count from what earlier sittings saw."""
        self.began, self.tokens = time.monotonic(), state.num_input_tokens_seen

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report one update."""
        self.last_losses = self.trainer.take_losses()
        speed = (state.num_input_tokens_seen - self.tokens) / max(time.monotonic() - self.began, 1e-9)
        self.report(
            Progress(self.arm, self.seed, state.global_step, state.max_steps, self.last_losses, speed)
        )
