"""A base and its adapters in one engine of ours, against a plain `lm_eval` run for each of them.

usage: python scripts/benchmarks/one_engine.py [--engine hf|vllm] [--device DEVICE]
           DTYPE BASE ADAPTER... -- TASK... [LIMIT]
       default: the bundled base alone, float32, twenty mini items per language, engine hf

All are whole commands on the same items. lm-eval's engine is its own `hf` with our largest batch, on DEVICE
(the first GPU, otherwise the CPU). `--device cpu` hides the GPU from midalign too. Printed are the seconds,
their ratio, and how many outputs are the same. In bfloat16, which midalign takes where the machine has it, an
answer may depend on which others share its batch.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from midalign import bases, harness  # noqa: E402
from midalign.device import device  # noqa: E402
from midalign.evaluate.engine import BATCH  # noqa: E402
from midalign.evaluate.plan import draw_sample  # noqa: E402

Outputs = dict[tuple[str, int], str]


EVAL = """
import sys
from midalign import cli, device
with device.fixed_dtype("{dtype}"):
    cli.main()
"""


def plain(
    dtype: str,
    base: str,
    adapter: str | None,
    positions: dict[str, list[int]],
    folder: Path,
    on_device: str,
) -> Outputs:
    """One run of lm-eval's own."""
    peft = f",peft={adapter}" if adapter else ""
    command = [str(Path(sys.executable).with_name("lm_eval")), "run", "--model", "hf", "--batch_size"]
    command += [str(BATCH), "--model_args", f"pretrained={base},dtype={dtype}{peft}", "--device"]
    command += [
        on_device,
        "--tasks",
        ",".join(positions),
        "--samples",
        json.dumps(positions),
        "--log_samples",
    ]
    subprocess.run([*command, "--output_path", str(folder)], capture_output=True, check=True)
    outputs = {}
    for file in folder.rglob("samples_*.jsonl"):
        task = file.name.removeprefix("samples_").rpartition("_20")[0]
        for row in map(json.loads, file.read_text("utf-8").splitlines()):
            outputs[task, row["doc_id"]] = row["filtered_resps"][0]
    return outputs


def ours(
    dtype: str, base: str, adapters: list[str], tasks: list[str], limit: int, folder: Path, engine: str
) -> list[Outputs]:
    """One evaluation of ours: the base's outputs, then the adapters'."""
    command = [
        sys.executable,
        "-c",
        EVAL.format(dtype=dtype),
        "eval",
        "--base",
        base,
        "--tasks",
        ",".join(tasks),
    ]
    command += ["--limit", str(limit), "--output", str(folder), "--log-samples", "--engine", engine]
    command += [word for adapter in adapters for word in ("--adapter", adapter)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = []
    for record in map(Path, done.stdout.split()):
        lines = record.with_suffix(".outputs.jsonl").read_text("utf-8").splitlines()
        rows = map(json.loads, lines)
        found.append({(row["task"], row["doc_id"]): row["output"] for row in rows})
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=["hf", "vllm"], default="hf")
    parser.add_argument("--device", default=None)
    options, words = parser.parse_known_args()
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch first asks for GPUs
    on_device = options.device or device()
    asked = " ".join(words) or "float32 mini -- midalign_mini_slot 20"
    models, _, rest = asked.partition(" -- ")
    dtype, base, *adapters = models.split()
    limit = int(rest.split()[-1]) if rest.split()[-1].isdecimal() else 10**9
    tasks = harness.load_tasks([name for name in rest.split() if not name.isdecimal()])
    sizes = {name: len(task.test_docs()) for name, task in tasks.items()}
    positions = {name: draw_sample(size, limit) or list(range(size)) for name, size in sizes.items()}
    with tempfile.TemporaryDirectory() as name:
        begin = time.perf_counter()
        found = ours(dtype, base, adapters, list(tasks), limit, Path(name, "ours"), options.engine)
        one = time.perf_counter() - begin
        begin = time.perf_counter()
        expected = [
            plain(dtype, bases.resolve(base), adapter, positions, Path(name, str(number)), on_device)
            for number, adapter in enumerate([None, *adapters])
        ]
        several = time.perf_counter() - begin
    pairs = [(mine[key], theirs[key]) for mine, theirs in zip(found, expected, strict=True) for key in mine]
    same = sum(a == b for a, b in pairs)
    print(
        f"{dtype}, {len(tasks)} tasks, {len(pairs)} answers: {one:.0f} s in one engine ({options.engine} on "
        f"{on_device}), {several:.0f} s in {len(expected)} runs of lm_eval, {several / one:.2f} times as "
        f"long; {same} outputs are the same"
    )


if __name__ == "__main__":
    main()
