"""What `lm_eval --tasks midalign_slot_en --limit 8` takes over the same prompts as a plain task of lm-eval's.

usage: python scripts/benchmarks/lm_eval_run.py [RUNS]      MASSIVE must have been added

Both are whole commands, started in turn, with the bundled base: the plain one reads eight rendered prompts
from a JSON file and scores by exact match. What is left is our task: index, data, scoring, standard errors.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from midalign import bases, harness  # noqa: E402

PLAIN = """task: plain
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{target}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 128}}
metric_list: [{{metric: exact_match}}]
"""


def plain_task(folder: Path) -> None:
    """The first eight prompts of midalign_slot_en as a task that needs nothing of ours."""
    task = harness.load_tasks(["midalign_slot_en"])["midalign_slot_en"]
    documents = list(task.test_docs())[:8]
    rows = [
        {"prompt": harness.prompt(task, document), "target": task.doc_to_target(document)}
        for document in documents
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (folder / "plain.yaml").write_text(PLAIN.format(rows=folder / "rows.jsonl"), "utf-8")


def run(folder: Path, task: str, *more: str) -> tuple[float, float]:
    """Seconds of wall time and of processor time of one lm_eval command."""
    command = [str(Path(sys.executable).with_name("lm_eval")), "run", "--model", "hf", "--tasks", task]
    model = f"pretrained={bases.resolve('mini')},dtype=float32"
    before, begin = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [*command, "--model_args", model, "--device", "cpu", "--batch_size", "8", "--limit", "8", *more],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        check=True,
    )
    wall, after = time.perf_counter() - begin, getrusage(RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain_task(folder)
        include = ("--include_path", str(folder))
        run(folder, "plain", *include)  # fills the caches of disk and of datasets
        pairs = [(run(folder, "plain", *include), run(folder, "midalign_slot_en")) for _ in range(runs)]
    for index, kind in enumerate(("wall", "processor")):
        plain = statistics.median(pair[0][index] for pair in pairs)
        more = [ours[index] - theirs[index] for theirs, ours in pairs]
        print(
            f"{kind} time: plain task {plain:.2f} s, midalign_slot_en {statistics.median(more):+.2f} s "
            f"(median of {runs} differences, {min(more):+.2f} to {max(more):+.2f})"
        )


if __name__ == "__main__":
    main()
