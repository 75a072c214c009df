"""`midalign tasks-dir`"""


def tasks_dir() -> None:
    """Print the folder of the task files, for lm-eval's --include_path."""
    from midalign import tasks

    print(tasks.tasks_dir())
