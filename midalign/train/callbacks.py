"""Report the updates of a training run."""

import math
import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from midalign.errors import TrainingError
from midalign.train.progress import OnTrainProgress, TrainProgress

if TYPE_CHECKING:
    from midalign.train.progress import TrainingLog
    from midalign.train.trainer import AlignmentTrainer


class ReportUpdates(TrainerCallback):
    """Reports mean losses and speed to the caller and the log after every update."""

    def __init__(
        self,
        trainer: "AlignmentTrainer",
        arm: str,
        seed: int,
        report: OnTrainProgress,
        log: "TrainingLog | None",
    ) -> None:
        self.trainer, self.arm, self.seed, self.report, self.log = trainer, arm, seed, report, log
        self.began, self.tokens = time.monotonic(), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock, and count tokens from those before an interruption."""
        self.began, self.tokens = time.monotonic(), state.num_input_tokens_seen

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report an update. Raises TrainingError if a loss is not finite."""
        update, losses = state.global_step, self.trainer.take_losses()
        infinite = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if infinite:
            batch = self.trainer.train_dataset.describe(update - 1)
            raise TrainingError(
                f"{self.arm}, seed {self.seed}: the {infinite[0]} loss of update {update} is "
                f"{losses[infinite[0]]}. Its batch: {batch}. The last checkpoint before it is kept. "
                f"Inspect that batch, or lower learning_rate"
            )
        speed = (state.num_input_tokens_seen - self.tokens) / max(time.monotonic() - self.began, 1e-9)
        if self.log is not None:
            self.log.write({"update": update, "losses": losses, "tokens": state.num_input_tokens_seen})
        self.trainer.log_measures(losses)
        self.report(TrainProgress(self.arm, self.seed, update, state.max_steps, losses, speed))
