"""`midalign tasks-dir`."""

EXAMPLES = 'lm_eval --include_path "$(midalign tasks-dir)" --tasks midalign_slot_en ...'


def tasks_dir() -> None:
    """Print the folder of the task files.

    lm-eval needs it in `--include_path` only where its plug-in is switched off.
    """
    from midalign import tasks

    print(tasks.tasks_dir())
