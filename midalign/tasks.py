"""Find the task files: next to the package in a checkout, inside it in a wheel."""

from pathlib import Path

from midalign.errors import MidalignError


def tasks_dir() -> Path:
    """Return the folder of the task files, for lm-eval's `--include_path`."""
    package = Path(__file__).parent
    for folder in (package / "tasks", package.parent / "tasks" / "midalign"):
        if folder.is_dir():
            return folder
    raise MidalignError(
        f"No task files next to {package}. Reinstall midalign: pip install --force-reinstall midalign"
    )
