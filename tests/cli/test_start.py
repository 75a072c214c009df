"""How the command starts and how it ends."""

import errno
import subprocess
import sys
from resource import RUSAGE_CHILDREN, getrusage

import pytest

HEAVY = {
    "torch",
    "transformers",
    "lm_eval",
    "vllm",
    "datasets",
    "peft",
    "matplotlib",
    "numpy",
    "pydantic",
    "scipy",
}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_help_imports_nothing_heavy() -> None:
    done = python("-X", "importtime", "-m", "midalign", "--help")
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert imported & HEAVY == set()


def test_help_is_quick() -> None:
    def seconds() -> float:  # of the processor: others may be busy on this machine
        before = getrusage(RUSAGE_CHILDREN)
        python("-m", "midalign", "--help")
        after = getrusage(RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.5


def command(body: str) -> subprocess.CompletedProcess[str]:
    """A typer command with this body, as `midalign` runs its own."""
    lines = "\n    ".join(body.splitlines())
    return python(
        "-c",
        "import errno, os, signal, time, typer\nfrom midalign import cli, errors\n"
        "app = typer.Typer(pretty_exceptions_enable=False)\n@app.command()\n"
        f"def main():\n    {lines}\ncli.run_command(app)",
    )


def test_ctrl_c_is_one_line() -> None:
    done = command("os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)")
    assert done.returncode == 130
    assert done.stderr.startswith("midalign: interrupted")
    assert done.stderr.count("\n") == 1


INTERRUPT = "os.kill(os.getpid(), signal.SIGINT)"


@pytest.mark.parametrize(
    "ignored",
    [
        f"type('Owner', (), {{'__del__': lambda self: {INTERRUPT}}})()",
        "import weakref\nowner = type('Owner', (), {})()\n"
        f"kept = weakref.ref(owner, lambda _: {INTERRUPT})\ndel owner",
    ],
    ids=["finaliser", "weakref callback"],
)
def test_ctrl_c_that_python_ignores_is_sent_again(ignored: str) -> None:
    done = command(f"{ignored}\ntime.sleep(20)")
    assert done.returncode == 130
    assert done.stderr.startswith("midalign: interrupted")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("errors.TaskError('No task x. Type y')", "midalign: No task x. Type y\n"),
        (f"OSError({errno.ENOSPC}, 'No space', 'a/b.json')", "midalign: the disk is full (a/b.json)"),
    ],
)
def test_what_users_can_mend_is_one_screen(raised: str, shown: str) -> None:
    done = command(f"raise {raised}")
    assert done.returncode == 1
    assert done.stderr.startswith(shown)
    assert "Traceback" not in done.stderr


def test_a_bug_keeps_its_traceback() -> None:
    done = command("raise OSError(2, 'No such file')")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_usage_errors_are_typers() -> None:
    done = python("-m", "midalign", "evaluat")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
