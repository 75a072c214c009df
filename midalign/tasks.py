"""Where the task YAMLs are: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path

from midalign.errors import MidalignError


def tasks_dir() -> Path:
    """The folder that holds the task families; what `--include_path` of lm-eval takes."""
    package = Path(__file__).parent
    for folder in (package / "tasks", package.parent / "tasks" / "midalign"):
        if folder.is_dir():
            return folder
    raise MidalignError(
        f"No task files beside {package}; reinstall midalign: pip install --force-reinstall midalign"
    )
