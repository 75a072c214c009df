"""Train every form of alignment with 1, 2 and 4 processes: python every_form.py FOLDER

Writes FOLDER/<processes>/<form>.safetensors, the trained weights, and <form>.json, the losses by update. The
processes are forked, so that all of them share one import of torch and lm-eval. Everything but the reported
losses of labels, which are fp32, is computed in fp64.
"""

import gc
import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_trainer import trainer_of
from transformers import AutoTokenizer, TrainerCallback

from midalign import bases, harness
from midalign.train.distributed import world_size
from midalign.train.recipe import load_recipe

WORLDS = (1, 2, 4)
UPDATES = 2
BATCH = ("samples_per_update=3", "align.pairs_per_update=8", "align.copy_samples=3", "align.until=1.0")
"""Of four processes, one has no sample of the task, and another has no copy."""

FORMS = {
    "plain": (),
    "centred": ("align.centred=true", "align.include_bos=true", "align.preservation=0.0"),
    "running": ("align.centred=running", "align.learn_temperature=true"),
    "one way": ("align.symmetric=false", "align.temperature=0.5", "align.stop_gradient=english"),
    "cosine": ("align.objective=cosine", "align.pooling=last", "align.weight=0.5"),
    "squared": ("align.objective=squared", "align.stop_gradient=foreign"),
    "layers": ("align.layer=[1, 3]", "align.layer_weights=[0.3, 0.7]", "align.multiway=true"),
    "texts": ("align.text_samples=2", "align.copy_samples=0"),
    "micro": ("align.alternate=micro", "align.ratio=[1, 2]", "samples_per_update=5"),
    "cycles": ("align.alternate=micro", "align.cycles=2", "align.rise=0.7"),
    "update": ("align.alternate=update", "align.copy_samples=1", "align.centred=false"),
    "a part": ("align.first=0.4", "align.until=0.5"),
    "switched": ("align.switched_samples=3",),
    "in the prompt": ("align.context=prompt", "align.layer=3"),
    "alone": ("align.task=false", "align.copy_samples=2"),
}
"""Changes of the recipe by name. Together they set every key of `align`, except which pairs there are."""


class Losses(TrainerCallback):
    """Keep the losses of each update."""

    def __init__(self, trainer):
        self.trainer, self.by_update = trainer, []

    def on_step_end(self, *_, **__):
        self.by_update.append(self.trainer.take_losses())


def train(folder, rank, processes):
    """Train all forms as one of several processes."""
    address = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    if processes > 1:
        os.environ.update({name: str(value) for name, value in address.items()})
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(20000 + os.getppid() % 10000 + processes))
    tokenizer = AutoTokenizer.from_pretrained(bases.resolve("mini"))
    for name, changes in FORMS.items():
        work = folder / name
        trainer = trainer_of(
            tokenizer, work, (*BATCH, *changes), UPDATES, dtype=torch.float64, shared=True, optim="sgd"
        )
        assert world_size() == processes
        # SGD without clipping: to Adam, or clipped, a gradient that is twice too large is the same.
        trainer.args.max_grad_norm, trainer.args.learning_rate, trainer.args.save_strategy = 0.0, 1e-2, "no"
        losses = Losses(trainer)
        trainer.add_callback(losses)
        start = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
        trainer.train()
        changed = {n: p.detach() - start[n] for n, p in trainer.model.named_parameters() if n in start}
        if rank == 0:
            save_file(changed | dict(trainer.alignment.state_dict()), folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(losses.by_update))


def share_tasks():
    """Load the tasks and their documents before the forks: lm-eval takes seconds each time."""
    recipe = load_recipe("mini")
    tasks = harness.load_tasks(harness.training_tasks(recipe.task, recipe.supervised))
    harness.load_tasks = lambda names: {name: tasks[name] for name in names}
    for task in tasks.values():
        len(task.training_docs())


def main(folder):
    """Fork the processes of each number in turn."""
    share_tasks()
    gc.freeze()  # Trainer collects garbage before each training
    fork = multiprocessing.get_context("fork")
    for processes in WORLDS:
        (folder / str(processes)).mkdir(parents=True)
        ranks = [
            fork.Process(target=train, args=(folder / str(processes), r, processes)) for r in range(processes)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(240)
            if process.exitcode != 0:
                for other in ranks:
                    other.kill()
                sys.exit(f"{processes} processes: exit status {process.exitcode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
