"""What the plug-in costs a Python that never imports lm-eval: starts with and without its start-up file.

usage: python scripts/benchmarks/plugin_startup.py [STARTS]

Two fresh environments, alike but for the plug-in's files, are started in turn, so that both see the same load
of the machine; printed is the median of the paired differences in processor time and in wall time.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

PLUGINS = Path(__file__).parents[2] / "harness_plugins"


def environment(folder: Path, with_plugin: bool) -> Path:
    """An environment's Python; the plug-in's files lie as a wheel lays them, compiled by a first start."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    if with_plugin:
        for file in PLUGINS.glob("midalign_autoload.*"):
            shutil.copy(file, packages)
        shutil.copytree(PLUGINS / "midalign_lm_eval", packages / "midalign_lm_eval")
    python = folder / "bin" / "python"
    start(python)
    return python


def start(python: Path) -> tuple[float, float]:
    """Seconds of wall time and of processor time that one start takes."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    before, begin = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([str(python), "-c", "pass"], env=clean, check=True)
    wall, after = time.perf_counter() - begin, getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    starts = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    with tempfile.TemporaryDirectory() as folder:
        without = environment(Path(folder, "plain"), with_plugin=False)
        with_it = environment(Path(folder, "ours"), with_plugin=True)
        pairs = [(start(without), start(with_it)) for _ in range(starts)]
    for index, kind in enumerate(("wall", "processor")):
        without = statistics.median(plain[index] for plain, _ in pairs) * 1000
        low, more, high = statistics.quantiles([(o[index] - p[index]) * 1000 for p, o in pairs], n=4)
        print(
            f"{kind} time of a start: {without:.2f} ms without the plug-in, {more:.3f} ms more with it "
            f"(medians of {starts}; quartiles of the difference {low:.3f} and {high:.3f})"
        )


if __name__ == "__main__":
    main()
