"""What aligning costs: whole arms of a recipe in the preset `default`, at equal samples of the task.

    python scripts/benchmarks/arm_cost.py [BASE] [RECIPE] [UPDATES] [ROUNDS]

A baseline and an aligned arm are trained in turn by `midalign-train`, each in a process of its own; every
other round begins with the other one. Seconds are of the adapter's manifest: the whole loop, the base loaded.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from midalign.adapter import read_manifest

ARMS = {"baseline": None, "default": {}}


def seconds(arm: str, base: str, recipe: str, updates: str) -> float:
    """Of an arm's training."""
    output = Path(tempfile.mkdtemp())
    command = [str(Path(sys.executable).with_name("midalign-train")), recipe, f"base={base}", "--arm", arm]
    settings = [f"arms={json.dumps(ARMS)}", f"updates={updates}", "seeds=[1]", "save_every=100000"]
    done = subprocess.run(
        [*command, *settings, "evaluate=false", f"output={output}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(done.stderr)
    manifest = read_manifest(output / "adapters" / f"{arm}-seed1")
    assert manifest is not None
    return manifest.seconds


def main(base: str = "mini", recipe: str = "mini", updates: str = "40", rounds: str = "3") -> None:
    """Measure and print."""
    print(f"{recipe} on {Path(base).name}, {updates} updates an arm")
    ratios = []
    for number in range(int(rounds)):
        order = list(ARMS) if number % 2 == 0 else list(ARMS)[::-1]
        took = {arm: seconds(arm, base, recipe, updates) for arm in order}
        ratios.append(took["default"] / took["baseline"])
        print(
            f"baseline {took['baseline']:.1f} s, default {took['default']:.1f} s, {ratios[-1]:.2f} times",
            flush=True,
        )
    print(f"median {statistics.median(ratios):.2f} times, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
