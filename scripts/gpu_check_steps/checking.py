"""Rows of the table, the run that steps share, and its state on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
STEP_SECONDS = 600
"""Most seconds of a step. A step that takes longer is ended and fails."""

Status = Literal["pass", "fail", "not run"]
Outputs = dict[tuple[str, str, int], str]
"""(record, task, doc_id) -> output."""


@dataclass(frozen=True)
class CheckRow:
    """A line of the table."""

    name: str
    expected: str
    found: str
    status: Status


def judged(name: str, expected: str, found: str, holds: bool) -> CheckRow:
    """Return a row that passes if `holds`."""
    return CheckRow(name, expected, found, "pass" if holds else "fail")


def not_run(name: str, expected: str, reason: str) -> CheckRow:
    """Return a row of a check that was left out."""
    return CheckRow(name, expected, reason, "not run")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def last_line(self) -> str:
        """The last line of its messages, which names the error of a failed command."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else "no message"


@dataclass
class CheckRun:
    """Where results go, what the machine has, and the commands that have been run."""

    output: Path
    gpu: bool
    short: bool = False
    gemma: Path | None = None
    deadline: float = field(default_factory=lambda: time.monotonic() + STEP_SECONDS)

    def command(self, *words: object, environment: Mapping[str, str] | None = None) -> Finished:
        """Run a command in the checkout, and end it and its children at the deadline of the step."""
        process, start = self.start(*words, environment=environment), time.monotonic()
        try:
            process.wait(timeout=max(self.deadline - start, 1))
            ended = ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            ended = f"\nended after {time.monotonic() - start:.0f} s, the most that a step may take"
        stdout, stderr = self.printed()
        return Finished(process.returncode, stdout, stderr + ended, time.monotonic() - start)

    def start(self, *words: object, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
        """Start a command in a process group of its own, and log its command line.

        It prints into files, since nobody reads a pipe while the command is watched.
        """
        line = [str(word) for word in words]
        self.output.mkdir(parents=True, exist_ok=True)
        with (self.output / "commands.log").open("a", encoding="utf-8") as log:
            log.write(" ".join([*(f"{k}={v}" for k, v in (environment or {}).items()), *line]) + "\n")
        paths = [str(ROOT), str(ROOT / "harness_plugins"), os.environ.get("PYTHONPATH", "")]
        stdout, stderr = self._printed_files()
        with stdout.open("w") as out, stderr.open("w") as messages:
            return subprocess.Popen(
                line,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=messages,
                text=True,
                start_new_session=True,
            )

    def printed(self) -> tuple[str, str]:
        """Return what the last command has printed to stdout and to stderr."""
        stdout, stderr = (file.read_text("utf-8", errors="replace") for file in self._printed_files())
        return stdout, stderr

    def _printed_files(self) -> tuple[Path, Path]:
        return self.output / "stdout.txt", self.output / "stderr.txt"

    def midalign(self, *words: object, environment: Mapping[str, str] | None = None) -> Finished:
        """Run a midalign command."""
        return self.command(sys.executable, "-m", "midalign", *words, environment=environment)

    def adapters(self) -> list[Path]:
        """Return the adapters that step `demo` has trained."""
        return sorted(file.parent for file in self.output.glob("demo/adapters/*/adapter_config.json"))


def eval_words(
    adapters: Sequence[Path],
    tasks: str,
    limit: int,
    engine: str,
    output: Path,
    *more: object,
    base: object = "mini",
) -> list[object]:
    """Return the words of `midalign eval` after the program."""
    words: list[object] = ["eval", "--base", base, "--tasks", tasks, "--limit", limit, "--engine", engine]
    words += [word for adapter in adapters for word in ("--adapter", adapter)]
    return [*words, "--log-samples", "--no-comparison", "--output", output, *more]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a folder, by name."""
    files = sorted(file for file in folder.glob("*.json") if not file.name.startswith("."))
    return [json.loads(file.read_text("utf-8")) for file in files]


def read_outputs(folder: Path) -> Outputs:
    """Return the outputs that `--log-samples` has written to a folder."""
    rows = (
        (file.name.removesuffix(".outputs.jsonl"), json.loads(line))
        for file in sorted(folder.glob("*.outputs.jsonl"))
        for line in file.read_text("utf-8").splitlines()
    )
    return {(name, row["task"], row["doc_id"]): row["output"] for name, row in rows}


def equal_share(first: Outputs, second: Outputs) -> float:
    """Return the share of outputs that are equal, 0 if the two are not of the same items."""
    if not first or first.keys() != second.keys():
        return 0.0
    return sum(first[key] == second[key] for key in first) / len(first)


Step = Callable[[CheckRun], list[CheckRow]]


class CheckState:
    """Results of finished steps in a JSON file, which is written after each step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.steps = json.loads(path.read_text("utf-8"))["steps"]

    def is_done(self, name: str) -> bool:
        """Return whether every check of a step has passed."""
        rows = self.steps.get(name, {}).get("rows", [])
        return bool(rows) and all(row["status"] == "pass" for row in rows)

    def rows(self, name: str) -> list[CheckRow]:
        """Return the rows of a finished step."""
        return [CheckRow(**row) for row in self.steps[name]["rows"]]

    def keep(self, name: str, rows: Sequence[CheckRow], seconds: float) -> None:
        """Write the result of a step."""
        self.steps[name] = {"seconds": round(seconds, 1), "rows": [asdict(row) for row in rows]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({"steps": self.steps}, indent=1, ensure_ascii=False) + "\n", "utf-8")
        os.replace(beside, self.path)


def run_step(run: CheckRun, name: str, step: Step, state: CheckState) -> list[CheckRow]:
    """Run a step unless it has passed before. An exception is a failed row, so that later steps still run."""
    if state.is_done(name):
        return state.rows(name)
    start = time.monotonic()
    run.deadline = start + STEP_SECONDS
    try:
        rows = step(run)
    except Exception as error:
        rows = [CheckRow(name, "no exception", f"{type(error).__name__}: {error}", "fail")]
    state.keep(name, rows, time.monotonic() - start)
    return rows
