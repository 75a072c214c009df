"""An update of midalign's trainer against the reference's way of working, on the same samples.

    python scripts/benchmarks/train_step.py [BASE] [RECIPE] [UPDATES] [FOLDER_OF_TRL]

The reference (dannigt/mid-align, re-written here from its description): all in bf16, task and pairs padded,
two forwards for the two sides of the pairs, logits in fp32 at every position, the head run over the aligned
states too, activations computed again in backward. Every way has a process of its own; the updates are run in
turn, two of each way after the other, the second measured, on a machine that does nothing else. Peak memory
is what the process held at most during its updates above what it held with the model loaded. FLOPs are
counted by torch for one update.

Levers: the reference with one thing done as midalign does it. With a folder
made by `pip install --no-deps --target FOLDER trl`: SFTTrainer with packing on the task's samples alone.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midalign import device
from midalign.train.recipe import Recipe, load_recipe

PAIRS = {"preservation": 0.0, "copy_samples": 0, "switched_samples": 0}
"""What the reference does not have is left out on both sides."""


@dataclass(frozen=True)
class Way:
    """The reference's way, or parts of it replaced."""

    labels_only: bool = False
    """Logits where a label follows, and none of aligned states."""
    one_forward: bool = False
    """Both sides of the pairs in one batch."""
    packed: bool = False
    recompute: bool = True


LEVERS = {
    "no recomputation": Way(recompute=False),
    "logits at labels only": Way(labels_only=True),
    "one forward for both sides": Way(one_forward=True),
    "packed rows, shared beginnings once": Way(packed=True, one_forward=True),
}


def settings(base: str, recipe: str, arm: str) -> Recipe:
    """The recipe with one aligned arm in the published form, and a baseline."""
    chosen = load_recipe(recipe, [f"base={base}", "seeds=[1]", "allow_overlap=true", "evaluate=false"])
    arms: dict[str, Any] = {"baseline": None, "aligned": PAIRS, "default": {}}
    return chosen.model_copy(update={"arms": {arm: arms[arm]}, "updates": 10_000})


def ours(recipe: Recipe) -> Iterator[None]:
    """An update each time it is asked for."""
    from midalign.train.build import build_arm

    (arm,) = recipe.arms
    trainer = build_arm(recipe, arm, 1, Path(tempfile.mkdtemp())).trainer
    model = trainer.accelerator.prepare(trainer.model)  # autocast, as Trainer does it
    trainer.create_optimizer_and_scheduler(len(trainer.train_dataset))
    parameters = trainer.trained_parameters()
    update = 0
    yield
    while True:
        trainer.training_step(model, trainer.train_dataset[update])
        _descend(trainer.optimizer, parameters)
        update += 1
        yield


def reference(recipe: Recipe, way: Way) -> Iterator[None]:
    """The same samples and pairs, one update each time it is asked for."""
    import torch
    import torch.nn.functional as F

    from midalign.align.head import IGNORED, label_losses
    from midalign.align.packing import attention_windows, model_inputs
    from midalign.align.pooling import mean_by_owner
    from midalign.align.rows import PADDING, WIDTH, lay_out
    from midalign.align.trunk import states_at
    from midalign.train.build import build_arm

    device.keep_freed_memory = lambda: None  # midalign's own

    (name,) = recipe.arms
    arm = build_arm(recipe, name, 1, Path(tempfile.mkdtemp()))
    model, stream = arm.trainer.model, arm.trainer.train_dataset
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    model.train()
    if way.recompute:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.0)
    windows = attention_windows(model) if way.packed else None
    head, (layer,) = model.get_output_embeddings(), arm.layers
    pad = stream.pad

    def task(update: int) -> Any:
        stream.width = WIDTH if way.packed else None
        rows = stream[update]["answers"]
        inputs = model_inputs(rows, windows, torch.bfloat16)
        if way.labels_only:
            return label_losses(model, inputs, rows["labels"], arm.trainer.head).mean()
        logits = model(**inputs, use_cache=False).logits.float()
        return F.cross_entropy(logits.flatten(0, 1), rows["labels"].flatten(), ignore_index=IGNORED)

    def pooled(sentences: list[str]) -> Any:
        ids = [arm.tokens.sentence(sentence) for sentence in sentences]
        shared = arm.tokens.added[0] if way.packed else 0
        rows = vars(lay_out([ids], [shared], pad, WIDTH if way.packed else None))
        states = states_at(model, model_inputs(rows, windows, torch.bfloat16), layer)
        return states, mean_by_owner(states, rows["owner"], rows["owner"] != PADDING, len(ids)).bfloat16()

    def pairs(update: int) -> Any:
        drawn = stream.aligned.draw(stream.seed, update)
        sides = [pair.foreign for pair in drawn], [pair.english for pair in drawn]
        if way.one_forward:
            states, both = pooled([*sides[0], *sides[1]])
            foreign, english = both.chunk(2)
        else:
            (states, foreign), (_, english) = pooled(sides[0]), pooled(sides[1])
        if not way.labels_only:
            head(states.detach()).float()  # computed and thrown away
        cosines = F.cosine_similarity(foreign.unsqueeze(1), english.unsqueeze(0), dim=-1)
        return F.cross_entropy(cosines / recipe.align.temperature, torch.arange(len(foreign)))

    update = 0
    yield
    while True:
        task(update).backward()
        if stream.aligned is not None:
            pairs(update).backward()
        _descend(optimizer, parameters)
        update += 1
        yield


def trl(recipe: Recipe, recompute: bool, meter: "Meter") -> None:
    """SFTTrainer with packing over the baseline's samples; an update each time a line comes in.

    Its rows hold other numbers of samples than ours, so that seconds are told for as many as ours.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from midalign.train.build import build_arm

    arm = build_arm(recipe, next(iter(recipe.arms)), 1, Path(tempfile.mkdtemp()))
    size = recipe.samples_per_update
    samples = [sample for batch in range(40) for sample in arm.stream.task.samples(1, batch)]
    tokens = sum(len(sample.prompt) + len(sample.target) for sample in samples) / 40
    rows = {
        "input_ids": [sample.prompt + sample.target for sample in samples],
        "completion_mask": [[0] * len(s.prompt) + [1] * len(s.target) for s in samples],
    }
    begun = [0.0]

    class InTurn(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % 2 == 0 and not sys.stdin.readline():
                os._exit(0)
            begun[0] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % 2 == 0:
                meter.answer((time.perf_counter() - begun[0]) * size / trainer.seen)

    class Counting(SFTTrainer):  # type: ignore[misc]
        seen = 0

        def training_step(self, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            self.seen = int((inputs["position_ids"] == 0).sum())
            return super().training_step(model, inputs, *rest, **options)

    trainer = Counting(
        model=arm.trainer.model,
        args=SFTConfig(
            tempfile.mkdtemp(),
            packing=True,
            max_length=round(tokens / 2),
            completion_only_loss=True,
            per_device_train_batch_size=2,
            gradient_checkpointing=recompute,
            learning_rate=recipe.learning_rate,
            bf16=arm.trainer.args.bf16,
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(rows),
        processing_class=arm.tokens.tokenizer,
        callbacks=[InTurn()],
    )
    meter.begin()
    trainer.train()


def _descend(optimizer: Any, parameters: list[Any]) -> None:
    import torch

    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()


class Meter:
    """Seconds and memory of a process, told to the one that compares."""

    def begin(self) -> None:
        """The model is loaded: the peak begins anew."""
        Path("/proc/self/clear_refs").write_text("5")
        self.loaded = self.kilobytes("VmRSS")

    def answer(self, seconds: float) -> None:
        """An update is done."""
        memory = (self.kilobytes("VmHWM") - self.loaded) * 1024
        print(json.dumps({"seconds": seconds, "memory": memory}), flush=True)

    @staticmethod
    def kilobytes(name: str) -> int:
        """What Linux counts of this process."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))


def work(way: str, arm: str, base: str, recipe: str) -> None:
    """A process of one way: an update and its seconds for every line that comes in."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    run, meter = settings(base, recipe, arm), Meter()
    if way.startswith("trl"):
        print(json.dumps({"flops": float("nan")}), flush=True)
        trl(run, way == "trl, recomputing", meter)
        return
    steps = ours(run) if way == "ours" else reference(run, Way(**json.loads(way)))
    next(steps)
    counter = FlopCounterMode(display=False)
    meter.begin()
    with counter:
        next(steps)
    print(json.dumps({"flops": counter.get_total_flops()}), flush=True)
    for _ in sys.stdin:
        next(steps)  # what the other ways have driven out of the caches comes back
        start = time.perf_counter()
        next(steps)
        meter.answer(time.perf_counter() - start)


class Process:
    """A way in a process of its own."""

    def __init__(self, way: str, arm: str, base: str, recipe: str) -> None:
        command = [sys.executable, __file__, "--work", way, arm, base, recipe]
        environment = os.environ | {
            "GOMP_SPINCOUNT": "3000",
            "OMP_WAIT_POLICY": "passive",
            "TQDM_DISABLE": "1",
        }
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.flops = self.read()["flops"]
        self.seconds: list[float] = []
        self.memory = 0.0

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, float] = json.loads(line)
                return found
        raise SystemExit("a process of the benchmark ended before its time; its message stands above")

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        found = self.read()
        self.seconds.append(found["seconds"])
        self.memory = found["memory"]

    def end(self) -> None:
        self.process.communicate()


def compare(ways: dict[str, tuple[str, str]], base: str, recipe: str, updates: int) -> dict[str, Process]:
    """All ways started one after the other, then their updates in turn."""
    processes = {name: Process(*way, base, recipe) for name, way in ways.items()}
    for number in range(updates + 1):
        for process in processes.values():
            process.step()
            if number == 0:
                process.seconds.clear()  # kernels are compiled
    for process in processes.values():
        process.end()
    return processes


def show(processes: dict[str, Process], against: str) -> None:
    """A line a way: seconds, memory, and how many times faster than `against`, with the spread."""
    slow = processes[against]
    print(f"{'':38}{'s/update':>9}{'MB above':>10}{'times':>7}  spread          predicted from FLOPs")
    for name, process in processes.items():
        ratios = sorted(a / b for a, b in zip(slow.seconds, process.seconds, strict=True))
        print(
            f"{name:38}{statistics.median(process.seconds):9.2f}{process.memory / 1e6:10.0f}"
            f"{statistics.median(ratios):7.2f}  {ratios[0]:.2f} to {ratios[-1]:.2f}"
            f"{slow.flops / process.flops:16.2f}"
        )


def main(base: str = "mini", recipe: str = "mini", updates: str = "8", folder: str = "") -> None:
    """Measure and print."""
    plain = json.dumps(vars(Way()))
    ways = {"reference": (plain, "aligned"), "midalign": ("ours", "aligned")}
    print(f"{recipe} on {Path(base).name}, task and pairs, {updates} updates in turn")
    show(compare(ways, base, recipe, int(updates)), "reference")
    print("\nlevers alone")
    for name, way in LEVERS.items():
        pair = {"reference": (plain, "aligned"), name: (json.dumps(vars(way)), "aligned")}
        show(compare(pair, base, recipe, max(int(updates) // 2, 2)), "reference")
    print("\narms of midalign at equal samples of the task")
    arms = {arm: ("ours", arm) for arm in ("baseline", "aligned", "default")}
    show(compare(arms, base, recipe, int(updates)), "baseline")
    if folder:
        os.environ["PYTHONPATH"] = folder
        print("\nthe task alone, against trl's SFTTrainer with packing, seconds for as many samples")
        task = {"midalign": ("ours", "baseline")}
        task |= {way: (way, "baseline") for way in ("trl", "trl, recomputing")}
        show(compare(task, base, recipe, int(updates)), "trl")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(*sys.argv[2:])
    else:
        main(*sys.argv[1:])
