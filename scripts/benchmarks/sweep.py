"""What a sweep of six runs costs beyond its runs' own training and evaluation.

usage: python scripts/benchmarks/sweep.py [UPDATES] [ITEMS]
       default: 40 small updates a run and 10 items in each of two languages, on the bundled base

In turn: `midalign sweep` over five layers, which is six adapters with the baseline; the same six by
`midalign train --arm ARM evaluate=false` and one `midalign eval`; the sweep once more, where all is finished.
Each of the first two begins with an empty cache. Printed are seconds by the clock and of processors; beside
other work only the latter mean much. A run's own seconds are its manifest's, from when its base is loaded.
What a sweep needs once, the start of its processes above all, is printed apart.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from midalign.sweep.grid import read_grid  # noqa: E402
from midalign.sweep.points import plan_points, recipes_of_points  # noqa: E402
from midalign.train.recipe import Recipe  # noqa: E402
from midalign.train.run import training_runs  # noqa: E402

GRID = "name: cost\nrecipe: mini\ngrid: {align.layer: [0.2, 0.4, middle, 0.7, 0.9]}\n"
LANGUAGES = ("en", "de")
SMALL = ["samples_per_update=8", "align.pairs_per_update=8", "align.copy_samples=2", "seeds=[1]"]
LIMIT = 1.05
"""What the whole may take of its parts."""


@dataclass(frozen=True)
class Seconds:
    """By the clock, and of processors."""

    clock: float
    processor: float

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.clock + other.clock, self.processor + other.processor)

    def __str__(self) -> str:
        return f"{self.clock:6.1f} s, {self.processor:6.1f} s of processors"


def timed(cache: Path, *words: str) -> Seconds:
    """A command of ours."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "midalign", *words],
        env={**os.environ, "MIDALIGN_CACHE": str(cache)},
        capture_output=True,
        check=True,
    )
    clock = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def apart(recipe: Recipe, changes: list[str], folder: Path) -> tuple[list[Seconds], Seconds]:
    """The sweep's runs one command each, and their evaluation."""
    cache = folder / "cache"
    given = [*changes, f"arms={json.dumps(recipe.arms)}", "name=cost", f"output={folder}"]
    trained = [
        timed(cache, "train", "mini", *given, "evaluate=false", "--arm", arm)
        for arm, _, _ in training_runs(recipe)
    ]
    tasks = [f"{recipe.task}_{code}" for code in LANGUAGES]
    words = ["--base", recipe.base, "--tasks", ",".join(tasks), "--split", "validation"]
    words += ["--adapters-only", "--limit", str(recipe.evaluation.limit), "--output", str(folder / "results")]
    for adapter in sorted((folder / "adapters").iterdir()):
        words += ["--adapter", str(adapter)]
    return trained, timed(cache, "eval", *words)


def own_seconds(adapters: Path) -> float:
    """That training took by the manifests."""
    return sum(json.loads(file.read_text("utf-8"))["seconds"] for file in adapters.glob("*/midalign.json"))


def main(updates: int = 40, items: int = 10) -> None:
    """Measure and print."""
    changes = [*SMALL, f"updates={updates}", f"evaluation.limit={items}"]
    changes += [f"evaluation.languages=[{', '.join(LANGUAGES)}]"]
    print(f"six runs of {updates} updates, {items} items a language", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        grid = folder / "grid.yaml"
        grid.write_text(GRID, "utf-8")
        (recipe,) = recipes_of_points(plan_points(read_grid(str(grid)), changes))
        command = ["sweep", str(grid), *changes, f"output={folder / 'sweep'}"]
        whole = timed(folder / "cache", *command)
        print(f"sweep                        {whole}", flush=True)
        trained, evaluation = apart(recipe, changes, folder / "apart")
        commands = sum(trained, evaluation)
        print(f"the same by single commands  {commands}")
        print(f"  of it the evaluation       {evaluation}")
        again = timed(folder / "cache", *command)
        own = own_seconds(folder / "sweep" / recipe.name / "adapters")
        own_apart = own_seconds(folder / "apart" / "adapters")
    print(f"sweep, all of it finished    {again}")
    by_clock, by_processor = whole.clock / commands.clock, whole.processor / commands.processor
    print(f"sweep over single commands   {by_clock:.2f} by the clock, {by_processor:.2f} by processors")
    print(f"training, by the manifests   {own:6.1f} s in the sweep, {own_apart:.1f} s by single commands")
    rest = whole.clock - own - evaluation.clock
    a_run = (rest - again.clock) / len(trained)
    print(f"sweep over its training and the evaluation: {whole.clock / (own + evaluation.clock):.2f}")
    print(f"the rest: {again.clock:.1f} s once, {a_run:.1f} s a run to load its base")
    enough = rest / (LIMIT - 1)
    print(f"under {LIMIT - 1:.0%} where training and evaluation take {enough:.0f} s or more in all")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
